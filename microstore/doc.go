// Package microstore keeps what stream tasks must not lose, in one embedded database: per-key histories of
// events, tables, timers, processed ids, logs, outboxes and positions. It deals in bytes; typed stores are built on it.
//
// # Guarantee
//
// A Batch collects the writes of many steps, and Commit makes any number of batches durable in one transaction
// that is never split. Whatever ends the process, a reopened store equals the sum of its commits up to some
// point, each whole: all of those for which Commit had returned, and at most the next ones. With
// Config.SyncWrites that holds for a power loss too; without, a power loss may take the newest commits back,
// each with everything in it.
//
// Reads of a task's own parts see its uncommitted writes; Rollback undoes them exactly.
//
//	s, err := microstore.Open(microstore.Config{Dir: dir})
//	...
//	task, err := s.Task("orders/3")
//	history, err := task.History("payments", microstore.HistoryConfig{MaxCount: 100})
//
//	b := s.NewBatch()
//	added, err := history.Append(b, "customer-7", "", &microstore.Entry{Time: at, ID: id, Value: data}, floor)
//	task.SetMeta(b, position)
//	err = s.Commit(ctx, b)
//
// # Path of a write
//
//	Append, Set, Add ──▶ caches, heaps (at once, undoable)
//	        │
//	        ▼
//	      Batch ──Commit──▶ committer: gather, number, fill ──▶ Badger (one transaction)
//	                                                               │ durable
//	      callers ◀── finisher: make log chunks and rows visible ◀─┘
//
// The database is authoritative. Caches hold what is on disk plus what batches have added; they are bounded by
// Config.MemoryBytes and hold on to what is not committed yet.
//
// # Who may call what
//
// A Store, its logs and outboxes are safe for concurrent use. Histories, tables and timers have no locks: their
// keys fall into 64 shards (Shard), and the caller sees to it that one goroutine at a time works on a shard.
// Processed ids have none either, and no shards.
// Sweep and Timers.Load are called between batches, when no shard is being worked on.
//
// # Limits
//
// One process at a time. A commit holds MaxBatchBytes (4.2 MiB by default), values of 32 KiB and more not
// counted, of which it holds 48 MiB. A key, with match value and id, is up to 64,900 bytes. Every file of keys is
// read once when a store is opened, to check it: about a second for a gigabyte.
package microstore
