// Package redis sets Watermill's Pub/Sub over Redis streams up as a pipeline needs it.
//
//	transport, err := redis.OpenAddress(ctx, "redis://host:6379/0", address.Config{})
//
// # Guarantee
//
// That of transport/stock, which it is: at least once, in the order of the stream as long as nothing comes again. What
// had been sent to a client that is gone is claimed after max_idle, behind newer messages.
//
// # Limits
//
// Those of transport/stock: a topic is one partition of one process. A stream is as durable as Redis has been told to
// be, and is kept whole until somebody trims it.
package redis
