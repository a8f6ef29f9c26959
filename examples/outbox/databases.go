package outbox

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver

	"github.com/millrace/millrace/inbox"
	"github.com/millrace/millrace/outbox"
)

// events is where the orders' events go.
const events = "orders"

// open opens a database of the example. In WAL mode readers and the one writer do not lock each other out, writers wait
// for each other up to the busy_timeout, and a transaction takes its lock when it begins.
func open(dir, name string) (*sql.DB, error) {
	return sql.Open("sqlite", "file:"+filepath.Join(dir, name)+".db?_pragma=journal_mode(WAL)&_pragma=busy_timeout(10000)&_txlock=immediate")
}

func outboxTable() (*outbox.Table, error) { return outbox.NewTable(outbox.SQLite, outbox.Config{}) }

func invoicesInbox() (*inbox.Inbox, error) {
	return inbox.New(inbox.SQLite, "billing", inbox.Config{})
}

// create makes all tables.
func create(ctx context.Context, dir string) error {
	table, err := outboxTable()
	if err != nil {
		return err
	}
	box, err := invoicesInbox()
	if err != nil {
		return err
	}
	return errors.Join(
		with(dir, "shop", func(db *sql.DB) error {
			_, err := db.ExecContext(ctx, "CREATE TABLE orders (n INTEGER PRIMARY KEY, customer TEXT NOT NULL, amount INTEGER NOT NULL)")
			return errors.Join(err, table.Create(ctx, db))
		}),
		with(dir, "topic", func(db *sql.DB) error { return createTopic(ctx, db) }),
		with(dir, "billing", func(db *sql.DB) error {
			_, err := db.ExecContext(ctx, "CREATE TABLE invoices (id INTEGER PRIMARY KEY, n INTEGER NOT NULL, customer TEXT NOT NULL, amount INTEGER NOT NULL)")
			return errors.Join(err, box.Create(ctx, db))
		}),
	)
}

// with opens a database for f.
func with(dir, name string, f func(*sql.DB) error) error {
	db, err := open(dir, name)
	if err != nil {
		return err
	}
	return errors.Join(f(db), db.Close())
}

// found is what the databases hold at the end.
type found struct{ orders, sent, lost, twice, without, disordered int }

// compare compares orders with invoices.
func compare(ctx context.Context, dir string) (f found, err error) {
	err = errors.Join(
		with(dir, "topic", func(db *sql.DB) error {
			return db.QueryRowContext(ctx, "SELECT COUNT(*) FROM topic").Scan(&f.sent)
		}),
		with(dir, "billing", func(db *sql.DB) error {
			db.SetMaxOpenConns(1) // ATTACH is of a connection
			if _, err := db.ExecContext(ctx, "ATTACH ? AS shop", filepath.Join(dir, "shop.db")); err != nil {
				return err
			}
			return db.QueryRowContext(ctx, `SELECT
	(SELECT COUNT(*) FROM shop.orders),
	(SELECT COUNT(*) FROM shop.orders WHERE n NOT IN (SELECT n FROM invoices)),
	(SELECT COUNT(*) - COUNT(DISTINCT n) FROM invoices),
	(SELECT COUNT(*) FROM invoices WHERE n NOT IN (SELECT n FROM shop.orders)),
	(SELECT COUNT(*) FROM invoices a JOIN invoices b ON a.customer = b.customer AND a.id < b.id AND a.n > b.n)`,
			).Scan(&f.orders, &f.lost, &f.twice, &f.without, &f.disordered)
		}),
	)
	return f, err
}

// done reports whether all is sent and has become invoices.
func done(ctx context.Context, dir string) (ok bool, err error) {
	var waiting int
	if err := with(dir, "shop", func(db *sql.DB) error {
		return db.QueryRowContext(ctx, "SELECT COUNT(*) FROM millrace_outbox").Scan(&waiting)
	}); err != nil || waiting > 0 {
		return false, err
	}
	f, err := compare(ctx, dir)
	return f.lost == 0, err
}
