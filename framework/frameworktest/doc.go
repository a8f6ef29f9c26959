// Package frameworktest runs pipelines in a test: the tasks, the store and the commits of production, one batch
// at a time in the test's goroutine, with event time under the test's control.
//
//	d := frameworktest.New(t, frameworktest.Config{}, pipeline)
//	frameworktest.Send(d, "orders", framework.NewEvent("o1", "c1", noon, Order{...}))
//	d.Advance(noon.Add(2 * time.Hour))
//	unpaid := frameworktest.Outputs[Unpaid](d, "orders.unpaid")
//
// Whatever is sent is processed to the end, through all stages, before the call returns: nothing to wait for.
// The store is in a temporary directory; Restart forgets everything else, as a crash between two commits
// would.
//
// Not tested this way: the router, transports other than the store's, relays, and timing.
package frameworktest
