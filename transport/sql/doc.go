// Package sql sets Watermill's Pub/Sub over PostgreSQL and MySQL or MariaDB up as a pipeline needs it.
//
//	transport, err := sql.OpenAddress(ctx, "postgres://user:password@host/database", address.Config{})
//
// A topic is a table, and made when it is not there.
//
// # Guarantee
//
// That of transport/stock, which it is: at least once, in the order of the table's numbers on MySQL, and of transaction
// ids on PostgreSQL, which are those of a key where its writers are serialised.
//
// # Limits
//
// Those of transport/stock: a topic is one partition of one process. The table is looked at every poll, and keeps all
// rows until somebody deletes them. Its column of UUIDs takes 36 letters: an event with a longer id has a UUID made of that,
// the same each time, and its id in the metadata "ce_id" only. For SQLite there is transport/sqlite.
package sql
