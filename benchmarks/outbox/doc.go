// Command outbox measures Millrace's outbox and inbox beside what a user would have instead, in one run, and prints
// Markdown. It needs a PostgreSQL (with wal_level=logical for Debezium) and a Kafka, and creates and drops tables, slots
// and topics there whose names begin with "bench_".
//
//	go run ./benchmarks/outbox -postgres postgres://user:password@host/db -kafka host:9092
//	go run ./benchmarks/outbox -workload drain -systems millrace,bare -rounds 1 -scale 0.1
//
// # Workloads
//
//   - drain: a backlog of rows of 200 bytes and 1000 keys is there; how fast does it leave? Into Kafka, and into a function
//     that only counts. Counted are rows a second, and the processor seconds of the relay and of the database for a million
//     rows.
//   - latency: 1000 transactions a second write a row each; how long is it from the return of a commit until the row is
//     delivered: handed to a function, or read from Kafka by a consumer?
//   - insert: ten writers commit rows of 200 bytes, each in a transaction of its own: what the relay may have to keep up with.
//   - inbox: messages of which nothing is done but to be known afterwards, in batches of 500 and in a transaction each.
//
// Each system runs in a process of its own, in turn with the others. What arrives is compared with what was written: a
// message that is missing, or that comes for the first time after a later one of its key, makes the run an error. Messages
// that come twice are counted.
//
// # Systems
//
//   - millrace: outbox.Relay with its defaults; for latency with Notifier and pglisten.
//   - millrace-kept: the same with outbox.Config.KeepSent, so that what was sent is moved and not deleted.
//   - bare: a loop of pgx that reads 2000 rows in the order of their ids, sends them, waits, and deletes them; without
//     leases, bounds, retries, or a second look at anything.
//   - forwarder, forwarder-best: Watermill's forwarder over watermill-sql, with its defaults, and with batches of 1000 and
//     a poll each 10 ms.
//   - debezium: Debezium's embedded engine with its outbox event router, which reads the log; debezium/ is a small Java
//     program, left out where there is no JDK or no Maven. Its time begins with its first row, so without the start of the
//     JVM.
//   - notify: a NOTIFY of one connection heard by another, after a commit: what cannot be beaten without asking the
//     database in the writer's own transaction.
//   - pgbench: PostgreSQL's own, inserting into the same table; left out where it is not on PATH.
//
// The database's processor time is read from /proc, so it is there only where the server runs on the same machine, in a
// container perhaps, and this program may look.
package main
