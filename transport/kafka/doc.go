// Package kafka is the transport to Apache Kafka, on franz-go.
//
// # Guarantee
//
// As a source: every partition is read in order from the position that is stored with the engine's state. That
// position alone counts; what a consumer group has committed is advice to people and other programs, and is never
// gone forward to. A position that the topic does not have (any more) is an error that says both, unless
// Config.SkipGone says otherwise; nothing is reset in silence. Records of transactions are read when they are
// committed.
//
// As a sink: Publish returns when all replicas in sync have the records. Writing is idempotent, so that retries of
// the client neither repeat nor reorder; order holds for each key. A kill between the brokers' answer and the engine's
// commit of it sends records again, with the same ids.
//
// # Smallest program
//
//	config, err := kafka.Parse("kafka://localhost:9092")
//	…
//	config.Logger = slog.Default()
//	transport, err := kafka.New(ctx, config)
//	…
//	defer transport.Close()
//	runner, err := framework.New(framework.Config{Store: store, Transport: transport}, pipeline)
//
// # On the wire
//
// A record is a CloudEvents event in binary mode: attributes are headers ("ce_id", "ce_type", …), the key is Kafka's,
// the timestamp is when it was written. The header "_watermill_message_uuid" repeats the id, so that watermill-kafka's
// default marshaler reads it as a message; what that writes is read as well, as is any other record: without an id it
// is named after its place, and its time is its timestamp. A key's partition is framework.Partition, murmur2 as Java's
// client computes it, so that topics of both can be joined.
//
// # The data's path
//
//	brokers ─fetch─▶ client ─poll─▶ reader of a partition ─batch─▶ delivery loop ─▶ engine
//	engine ─▶ relay ─▶ Publish ─▶ the one producing client of the transport ─▶ brokers
//
// One client reads all that one subscriber is asked for. What is read ahead of a partition is bounded by
// Config.ReadBytes: past it the partition is paused.
//
// # Limits
//
// Partitions of a topic are those at the start; a sink learns a new number after an error or a restart. A reader does
// not tell deleted records (of compaction or of Release) from ones that were never there. Events structured as
// CloudEvents in one JSON document are payloads like any. A tombstone is a record without a value (framework.Record.Value is
// nil), and an empty value is never written as one. There is no exactly-once through Kafka's transactions: ids tell duplicates.
package kafka
