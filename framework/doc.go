// Package framework is the middle of Millrace: events, pipelines as values, the contracts of transports, and the
// engine that runs pipelines on a Watermill router.
//
// # Smallest program
//
//	p := framework.NewPipeline("large")
//	orders := framework.From(p, "orders", framework.Source[Order]{Key: Order.Customer, Time: Order.Placed})
//	large := processors.Filter(orders, "large", func(e *framework.Event[Order]) bool { return e.Data.Amount > 100 })
//	framework.To(large, "orders.large")
//
//	runner, err := framework.New(framework.Config{Transport: topics}, p)
//	err = runner.Run(ctx)
//
// # Guarantees
//
// One batch, one commit: the entries that a batch appends to histories, the timers it sets, what it sends and the
// position it reached are one transaction of one store. Outputs leave after it, then the source is acknowledged. So
// after any crash the store is the fold of the input up to the position in it; outputs are sent at least once, and a
// duplicate has the same id; events of one key are processed and sent in order; an event that cannot be processed is in
// the dead-letter topic. docs/guarantees.md says what that means on each transport.
//
// # Words
//
// A pipeline is cut at its re-keys into stages. A task owns one partition of all sources of a stage and the state of
// its keys; it processes them in lanes, side by side. See docs/design.md for the path of the data, file by file.
//
// # Limits
//
// The partitions of a topic are those at the start of Run. One process runs all partitions, unless the transport shares
// them out among several (TopicInfo.Shared).
package framework
