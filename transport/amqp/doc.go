// Package amqp sets Watermill's Pub/Sub over RabbitMQ up as a pipeline needs it.
//
//	transport, err := amqp.OpenAddress(ctx, "amqp://user:password@host:5672/", address.Config{})
//
// A topic is an exchange, and each group has a durable queue of its own behind it.
//
// # Guarantee
//
// That of transport/stock, which it is: at least once, in the order of the queue; what was not acknowledged goes back to
// its place. A message counts as sent when the broker has confirmed it.
//
// # Limits
//
// Those of transport/stock: a topic is one partition of one process. A group gets what is published after its queue was
// made: an exchange without queues drops what it gets. CreateTopic makes the queue of the group that the address names,
// and a run those of its pipelines when it begins to read.
package amqp
