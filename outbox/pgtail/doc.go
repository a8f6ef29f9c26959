// Package pgtail makes a relay read PostgreSQL's log instead of polling the outbox's table: events come in the order of
// their commits, some milliseconds after them, and an idle table costs no queries. It is apart from package outbox so that
// users of other databases do not build pgx.
//
//	log, err := pgtail.New(table, address, pgtail.Config{})
//	relay, err := outbox.NewRelay(table, db, publisher, outbox.RelayConfig{Log: log})
//
// # Guarantee
//
// That of outbox, and one more: while the relay reads the log, the order of a key is that of the commits, whether or not
// its writers wait for each other. What the relay sends is in the table until then, and is visible there: so nothing is
// lost with the slot, and nothing is sent before a synchronous replica has it.
//
// For what the relay takes from the table instead (what is there at the first start, while a key or a topic is not taken,
// after a slot was lost) the order is that of polling.
//
// # What it needs
//
// PostgreSQL 12 or later with wal_level = logical, a free replication slot and WAL sender, a direct connection (no
// PgBouncer), and a user with REPLICATION who owns the table and may create a publication in the database.
//
// # Limits
//
// A slot keeps the log until it is read, also while no relay runs: set max_slot_wal_keep_size, and watch Log.Status. One
// relay reads; others wait for it to go. A slot does not move to a promoted replica: see docs/how-to/outbox-runbook.md.
package pgtail
