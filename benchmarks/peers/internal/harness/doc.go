// Package harness runs systems beside each other over one Kafka, measures them, and checks all that they write.
//
// A run is one system, in a process of its own, with one workload, in one of three modes:
//
//   - throughput: the input is there before the system starts. What counts goes from the first record in the system's
//     own code to the moment when the last output can be read, by a reader of committed records.
//   - latency: input comes at half of the rate that the system has reached in this comparison. An output's latency goes
//     from when its last cause was due to be sent, so that a sender that is held up hides nothing, to when a reader
//     has it.
//   - kill: W2 with kill -9, and a start at once, with the state that the system left on disk or with an empty
//     directory. The system has processed all that was there before it, and input comes at a rate, before the kill, while
//     it is down and afterwards. It has caught up when all outputs are there whose causes had been sent when its first
//     new output came.
//
// A time counts when all outputs are there and right in every field (orders.Tally). A result is one line of JSON in a
// file to which later runs may add; Report makes tables and a plot of the medians.
//
// # Limits
//
// Processor time and memory are read from /proc, and processors shared out with taskset; where these are missing, so
// are the figures, and everything shares all processors. Broker, harness and system are on one machine, so that a
// system that keeps the broker busy is slowed down by it.
package harness
