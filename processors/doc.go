// Package processors has the steps of pipelines.
//
// A step takes streams, a name that is unique in the pipeline, and functions of the user's; it returns the
// stream of what it makes. What a function needs from outside is passed in, so that a pipeline runs in a test
// as in production.
//
//	orders := framework.From[Order](p, "orders")
//	wanted := processors.Filter(orders, "wanted", func(e *framework.Event[Order]) bool { return e.Data.Amount > 0 })
//	priced := processors.Enrich(wanted, "priced", rates, Order.CurrencyCode, Order.WithRate)
//	paid := processors.Join(priced, payments, "paid", processors.On(Priced.ID, Payment.OrderID),
//		processors.Window{Within: 2 * time.Hour}, Confirm)
//	framework.To(paid, "orders.confirmed")
//
// # Steps
//
//	step                       out of an event come         keeps by key              cost an event
//	Filter, Select, Peek       itself or nothing            -                         a call
//	Map, MapData               one                          -                         a call
//	Split                      any number of parts          -                         a call and an id a part
//	Branch, Merge              itself, on one way           -                         a call a case
//	ReKey, ReKeyEach           itself, by other keys        -                         a write and a read a key
//	Enrich, EnrichMaybe        one, with a looked-up value  -                         a lookup
//	Distinct                   itself, the first time       ids                       a small write
//	Fold, FoldSome             the new value of its key     one value                 a write, per key and commit
//	Collect, CollectBy         itself, when stored          a history                 a write
//	  Evaluate                 what the history says        ids of what was emitted   a small write an emission
//	  Expire                   what the history says later  a timer                   two small writes
//	Compact                    the last of a window         a window                  a write
//	Join, LeftJoin, OuterJoin  one a pair, or alone         a window of each side     a write, a timer if alone
//	SelfJoin                   one a pair                   a window                  a write
//	JoinLatest                 one, with the other's value  one value                 a read, or a write
//
// Lookups are Table, LookupFunc or anything with the method; Guard bounds calls of a service in time and number and
// has a circuit breaker, Cached remembers answers.
//
// # Guarantees
//
// Ids of what steps make are functions of the pipeline, the step and the events that they are made from. Steps that
// keep state go by the events' own times and by watermarks, so the same events give the same outputs with the
// same ids, in whatever order they come, as long as none is later than the source's OutOfOrder and the step's
// AllowedLateness let it be. Exceptions: Fold and JoinLatest go by the order in which events come, Enrich by what a
// lookup answers when it is asked, and what Evaluate and Expire call is the user's.
//
// Both ends of a window are inside. A window is closed, a timer fires and an event is late when the watermark has
// passed the end, not when it is there.
//
// An event whose time is over goes to the dead letters, with the class late; one that was seen before is counted and
// left out; one without a key is a fault. An event is taken whole or not at all: when a step fails for good,
// what earlier steps kept of the event is taken back with it, so that it can be sent again. Only the parts of a Split
// are apart.
//
// # Limits
//
// Histories and values are kept as JSON. A join keeps at most 100,000 events of a side for a key, or Window.MaxCount;
// what is pushed out misses pairs, and is counted.
package processors
