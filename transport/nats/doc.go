// Package nats sets Watermill's Pub/Sub over NATS JetStream up as a pipeline needs it.
//
//	transport, err := nats.OpenAddress(ctx, "nats://host:4222", address.Config{})
//
// Streams and consumers are made when they are not there. A group begins with the oldest message.
//
// # Guarantee
//
// That of transport/stock, which it is: at least once, in the order of the stream as long as nothing comes again. What
// had been sent to a client that is gone comes after ack_wait, behind newer messages.
//
// # Limits
//
// Those of transport/stock: a topic is one partition of one process. Names of topics are names of streams, which have
// no dot, space, * or >.
package nats
