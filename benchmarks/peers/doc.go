// Command peers measures Millrace beside other ways to process streams on Kafka: franz-go alone, Watermill, Goka and
// Kafka Streams, in one run over the same broker. README.md says how, RESULTS.md what came out.
//
//	go run . -brokers localhost:9092
package main
