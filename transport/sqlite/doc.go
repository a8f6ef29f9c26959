// Package sqlite is a transport over a SQLite database: partitioned, ordered, replayable topics in one file, which
// several programs may write and read, and anybody can look into.
//
//	topics, err := sqlite.Open(ctx, "topics.db", sqlite.Config{})
//	…
//	err = topics.CreateTopic(ctx, "orders", 4)
//	runner, err := framework.New(framework.Config{Store: store, Transport: topics}, pipeline)
//
// # Guarantee
//
// What Publish has returned for is in the file, also after a loss of power, and was added at once or not at all. Records
// of a partition keep their order and their positions; a subscriber starts at any position that is kept. A sink has
// nothing lost or torn after a crash, and what was sent last perhaps twice, under the same ids.
//
// # Layout
//
// millrace_topics has the topics with their number of partitions, millrace_topics_partition where each partition goes
// on, and millrace_topics_record the records, with the attributes of CloudEvents as columns. A program of yours that
// writes there takes its positions from millrace_topics_partition, in the same transaction.
//
// # Limits
//
// SQLite has one writer at a time: publishers wait for one another. All programs must be on one machine, as the file's
// locks are. One process reads a topic for a pipeline; nothing is shared out. A record is kept until Release, or until
// somebody deletes it; a position whose records are gone is an error, never a silent jump. What another process has
// written is seen at the next look, every Config.PollInterval.
package sqlite
