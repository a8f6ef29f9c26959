// Package outbox is an example: a shop writes orders and their events in one transaction, a relay sends the events when
// they are committed, and a billing service makes one invoice for each, however often an event comes.
//
//	shop (shop.db: orders, outbox) → relay → topic (topic.db) → billing (billing.db: invoices, inbox)
//
// Each is a process of its own, and all data is in SQLite files, so nothing has to be installed; the shop's database can be
// on PostgreSQL. The topic is a table in place of a broker; any transport's publisher does for the relay.
//
//	go run ./examples outbox          # 500 orders
//	go run ./examples outbox -crash   # the same, while the processes are killed at random
//	go run ./examples outbox -crash -postgres postgres://user:password@host/database
//
// At the end it compares the orders with the invoices: lost 0, applied twice 0.
package outbox
