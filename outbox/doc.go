// Package outbox sends what a service writes to its own SQL database, once it is committed: events are rows of a table,
// written in the caller's transaction next to the caller's own tables, and a relay hands them to a transport.
//
// # Guarantee
//
// An event whose transaction was committed is sent at least once, and one whose transaction was rolled back never. A
// duplicate has the same id. Events of one topic and key are sent in the order of their commits, where the writers of a
// key do not run side by side: because they hold the lock of a row by then, or with Config.SerializeKeys. An event that
// is not taken holds up its key only. docs/guarantees.md says more.
//
// # Smallest program
//
//	table, err := outbox.NewTable(outbox.Postgres, outbox.Config{})
//	err = table.Create(ctx, db) // or run the statements of table.SQL(0) with a migration tool
//
//	// In the caller's transaction, here a *sql.Tx; outbox.Pgx takes a pgx.Tx:
//	err = table.Publisher(outbox.SQL(tx)).Publish(ctx, "orders", framework.Record{ID: "o1", Key: "customer 7", Value: data})
//	err = tx.Commit()
//
//	// Somewhere, in any number of processes:
//	publisher, err := transport.Publisher(framework.PublisherConfig{Logger: logger})
//	relay, err := outbox.NewRelay(table, db, publisher, outbox.RelayConfig{})
//	err = relay.Run(ctx)
//
// # Databases
//
// PostgreSQL, MySQL and MariaDB, and SQLite, with any driver of database/sql; for writers pgx too. SQLite wants
// journal_mode(WAL), a busy_timeout, and _txlock=immediate.
//
// # Writers of watermill-sql's
//
// Config.Watermill names topics of watermill-sql's on PostgreSQL and MySQL, with or without the envelope of Watermill's
// forwarder. Relays of the table send what is written there, too, with the same guarantee; their writers stay as they are.
//
// # Limits
//
// At most Slots relays share a table; further ones wait. A topic and an id have at most 255 bytes, a key 1024.
// The relay polls, and may be woken; on PostgreSQL it may read the log instead, see package pgtail.
package outbox
