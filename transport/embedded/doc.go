// Package embedded is the transport that needs no service: topics are durable, partitioned logs in the
// engine's own store (package microstore).
//
// # Guarantee
//
// What a pipeline sends to such a topic is part of the commit that decided it (framework.StoreTransport):
// it is there exactly when the state that caused it is there, so there is nothing to relay, to lose or to
// send twice, and kill -9 costs nothing. What an outside sender publishes is there when Publish returns.
// Without microstore.Config.SyncWrites a loss of power may take the newest commits back, state, topics and
// positions together.
//
// Records of a partition are in the order of the commits, and keep their offsets. A subscriber starts at
// any offset that is kept; OffsetAt finds the one for a time.
//
// # Smallest program
//
//	topics, err := embedded.Open("state", embedded.Config{})
//	…
//	err = topics.CreateTopic(ctx, "orders", 4)
//	runner, err := framework.New(framework.Config{Transport: topics}, pipeline)
//	err = runner.Run(ctx)
//	…
//	next, err := topics.Read(ctx, "orders.confirmed", 0, 0, func(r framework.Record) error { … })
//
// # Layout
//
// All records of one commit for one partition are one chunk of the partition's log: see
// framework.AppendRecords. The number of partitions of a topic and the positions of consumer groups of the plain
// face are named values of the store, "embedded/topic/…" and "embedded/group/…".
//
// # Limits
//
// Retention goes by bytes and by age, not by who has read: a reader that falls behind by more than
// Config.RetainBytes gets an error that says so, and does not skip records in silence. Nothing but the engine,
// between its own stages, slows a writer down for a slow reader; a full disk stops every commit. A topic cannot
// be given another number of partitions, and cannot be removed.
//
// PubSub is the plain Watermill face: one message at a time, consumer groups whose positions are committed
// with each acknowledgement.
package embedded
