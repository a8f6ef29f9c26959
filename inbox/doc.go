// Package inbox lets a handler take effect once for each message: the transaction that holds what it does also holds a
// row with the message's id, so one is there exactly when the other is.
//
// # Guarantee
//
// For each id and subscriber the effects in the database are committed once, however often the message comes, to
// however many consumers at the same time, and wherever one of them dies. A handler that fails leaves nothing behind, not
// even the row, so the retry runs. What the handler writes into an outbox with the same transaction is sent once it is
// committed. Effects outside the database are not part of it.
//
// # Smallest program
//
//	box, err := inbox.New(inbox.Postgres, "billing", inbox.Config{})
//	err = box.Create(ctx, db) // or run the statements of box.SQL(0) with a migration tool
//
//	handler := box.Handler(db, func(ctx context.Context, tx *sql.Tx, r framework.Record) error {
//		_, err := tx.ExecContext(ctx, "UPDATE accounts SET …")
//		return err
//	})
//	result, err := handler.HandleBatch(ctx, records) // or Handle for one; Middleware for a Watermill router
//
// # Other forms
//
// InStore: for a handler whose state is in a microstore; it writes into the batch that also holds the ids.
//
//	box, err := inbox.InStore(store, "billing", inbox.Config{})
//	handler := box.Handler(func(ctx context.Context, b *microstore.Batch, r framework.Record) error {
//		return balances.Set(b, r.Key, …)
//	})
//
// NewMarks and MarksInStore: for messages that their producer numbers within each key, as an outbox does. One row for each
// key with the highest number that was handled, instead of one for each message; nothing to purge, and no age from which
// messages are refused. Marks says what that asks for.
//
// # Databases
//
// PostgreSQL, MySQL and MariaDB, and SQLite, with any driver of database/sql. With pgx, call Inbox.Claim in the
// transaction. SQLite wants journal_mode(WAL), a busy_timeout, and _txlock=immediate.
//
// # Limits
//
// Ids are kept for Config.Retention, by the messages' own times; an older message is refused, by ErrTooOld, since it can
// no longer be told whether it was handled. A message without a time counts from when it first came: its redelivery after
// the retention is not recognised.
//
// Order is not kept after a failure: when a message of a batch fails, later ones of its key go on, and its retry comes
// after them. With marks they wait.
//
// In a microstore one handler runs at a time. What a handler sends goes into a log or an outbox of the store, with the
// batch; the relay of package outbox reads SQL only.
package inbox
