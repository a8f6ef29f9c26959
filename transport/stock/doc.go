// Package stock makes a transport of any Watermill Pub/Sub: its topics can be the sources and sinks of a pipeline.
//
//	transport, err := stock.New(stock.Config{
//		Subscriber: func(group string) (message.Subscriber, error) {
//			return kafka.NewSubscriber(kafka.SubscriberConfig{
//				Brokers: brokers, Unmarshaler: marshaler, ConsumerGroup: group, OverwriteSaramaConfig: oldest,
//			}, logger)
//		},
//		Publisher: func() (message.Publisher, error) {
//			return kafka.NewPublisher(kafka.PublisherConfig{Brokers: brokers, Marshaler: marshaler}, logger)
//		},
//	})
//
// # Guarantee
//
// A message is acknowledged when the batch that it came in is committed, and not before. Watermill's messages have no
// positions, so one that is delivered again is known by its id, the message's UUID: see framework.Source.Remember. Each
// record is sent as one message, with its id as UUID and its attributes as metadata; sending is at least once, and what
// is sent twice has the same UUID both times.
//
// # Batches
//
// A topic is one partition to the engine, whatever the Pub/Sub makes of it. What has arrived becomes a batch; while
// batches are out, the next is collected, up to the engine's bounds. Most Pub/Subs hand out one message and wait for
// its acknowledgement, so that a batch is one message, and a commit too. Those that hand out several at once, such as
// Kafka with one for each partition, fill larger ones.
//
// # Order
//
// Events are processed in the order in which the Pub/Sub hands them out, and records given to it in the order of
// commits. What that is worth is the Pub/Sub's matter: docs/how-to/watermill-pubsubs.md has a table of those that were
// tried.
//
// # Limits
//
// One partition, so one task. Topics between the stages of a pipeline (re-keys) need positions: use transport/embedded
// as framework.Config.Internal. A message without a UUID is a fault, unless Source.ID finds an id. Watermill's
// publishers cannot be interrupted: one that hangs keeps the run from ending before framework.Config.StopTimeout.
package stock
