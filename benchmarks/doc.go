// Command benchmarks measures Millrace beside what a user would have instead, in one run, and prints Markdown.
//
//	go run ./benchmarks                     # all workloads, three rounds
//	go run ./benchmarks -workload join -rounds 5
//	go run ./benchmarks -soak 10000000      # memory over ten million events
//
// Every program runs in a process of its own on one processor (GOMAXPROCS=1), in turn with the others, and checks
// its outputs. What counts is the ratio of medians of processor time an event; durations are there for those who
// have the machine to themselves. RESULTS.md has the latest figures.
//
// The outbox and the inbox have a command of their own, in benchmarks/outbox, and the comparison with other systems on
// Kafka is a module of its own, benchmarks/peers. What pipelines bear is not measured but tried, by benchmarks/soak.
package main
