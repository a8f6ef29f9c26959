// Package memory is a transport for tests and throw-aways: partitioned, ordered, replayable topics in
// the memory of one process.
//
// # Guarantee
//
// Records of one key keep their order. A subscriber starts at any position that is still kept, and reads
// every record from there on. Nothing survives the process; for topics that do, without any service
// around, use transport/embedded.
//
// # Smallest program
//
//	transport, err := memory.New(memory.Config{AutoCreate: true})
//	…
//	err = transport.Publish("orders", framework.Record{ID: "o1", Key: "customer 7", Value: []byte(`{}`)})
//	runner, err := framework.New(framework.Config{Store: store, Transport: transport}, pipeline)
//
// In a test: publish, End the topic so that the pipeline finishes, and compare Records of the sink.
//
// # Limits
//
// A partition keeps up to Config.RetainEvents and Config.RetainBytes. At a bound the oldest records make
// room, but only those that every group has acknowledged: else Publish waits, until its context ends. So
// a slow reader slows the writers down and loses nothing. A group counts from its first subscription
// until Forget; a topic that no group has ever read keeps its newest records. A position whose
// records are gone is an error of Subscribe, never a silent jump.
//
// A batch has at most 1024 records, whatever the subscriber asks for.
//
// PubSub is the plain Watermill face of the same topics: one message at a time, consumer groups,
// redelivery.
package memory
