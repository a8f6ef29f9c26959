package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver for PostgreSQL
	_ "modernc.org/sqlite"             // the driver for SQLite

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

// with opens a database for f.
func with(dir, name string, f func(*sql.DB) error) error {
	db, err := open(dir, name)
	if err != nil {
		return err
	}
	return errors.Join(f(db), db.Close())
}

// withShop opens the shop's database, which may be on PostgreSQL.
func (o options) withShop(f func(*sql.DB) error) error {
	if o.postgres == "" {
		return with(o.state, "shop", f)
	}
	db, err := sql.Open("pgx", o.postgres)
	if err != nil {
		return err
	}
	return errors.Join(f(db), db.Close())
}

// onSchema makes a schema for the shop, which goes when drop is called, and returns the address with it.
func onSchema(ctx context.Context, address string) (with string, drop func() error, err error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return "", nil, errors.New("the address must be like postgres://user:password@host/database")
	}
	db, err := sql.Open("pgx", address)
	if err != nil {
		return "", nil, err
	}
	name := fmt.Sprintf("millrace_shop_%x", time.Now().UnixNano())
	if _, err := db.ExecContext(ctx, "CREATE SCHEMA "+name); err != nil {
		return "", nil, errors.Join(fmt.Errorf("make a schema for the shop: %w", err), db.Close())
	}
	settings := u.Query()
	settings.Set("search_path", name)
	u.RawQuery = settings.Encode()
	return u.String(), func() error {
		_, err := db.ExecContext(context.WithoutCancel(ctx), "DROP SCHEMA "+name+" CASCADE")
		return errors.Join(err, db.Close())
	}, nil
}

func (o options) outboxTable() (*outbox.Table, error) {
	if o.postgres != "" {
		return outbox.NewTable(outbox.Postgres, outbox.Config{})
	}
	return outbox.NewTable(outbox.SQLite, outbox.Config{})
}

// insertOrder is the shop's own statement.
func (o options) insertOrder() string {
	if o.postgres != "" {
		return "INSERT INTO orders (n, customer, amount) VALUES ($1, $2, $3) ON CONFLICT (n) DO NOTHING"
	}
	return "INSERT INTO orders (n, customer, amount) VALUES (?, ?, ?) ON CONFLICT (n) DO NOTHING"
}

func invoicesInbox() (*inbox.Inbox, error) {
	return inbox.New(inbox.SQLite, "billing", inbox.Config{})
}

// create makes all tables.
func create(ctx context.Context, o options) error {
	table, err := o.outboxTable()
	if err != nil {
		return err
	}
	box, err := invoicesInbox()
	if err != nil {
		return err
	}
	return errors.Join(
		o.withShop(func(db *sql.DB) error {
			_, err := db.ExecContext(ctx, "CREATE TABLE orders (n INTEGER PRIMARY KEY, customer TEXT NOT NULL, amount INTEGER NOT NULL)")
			return errors.Join(err, table.Create(ctx, db))
		}),
		with(o.state, "topic", func(db *sql.DB) error { return createTopic(ctx, db) }),
		with(o.state, "billing", func(db *sql.DB) error {
			_, err := db.ExecContext(ctx, "CREATE TABLE invoices (id INTEGER PRIMARY KEY, n INTEGER NOT NULL, customer TEXT NOT NULL, amount INTEGER NOT NULL)")
			return errors.Join(err, box.Create(ctx, db))
		}),
	)
}

// found is what the databases hold at the end.
type found struct{ orders, sent, lost, twice, without, disordered int }

// compare compares orders with invoices.
func compare(ctx context.Context, o options) (f found, err error) {
	invoices := map[int]int{} // by order
	last := map[string]int{}  // order, by customer
	var placed []int
	err = errors.Join(
		with(o.state, "topic", func(db *sql.DB) error {
			return db.QueryRowContext(ctx, "SELECT COUNT(*) FROM topic").Scan(&f.sent)
		}),
		with(o.state, "billing", func(db *sql.DB) error {
			return each(ctx, db, "SELECT n, customer FROM invoices ORDER BY id", func(n int, customer string) {
				if invoices[n]++; invoices[n] > 1 {
					f.twice++
				} else if n < last[customer] {
					f.disordered++
				}
				last[customer] = n
			})
		}),
		o.withShop(func(db *sql.DB) error {
			return each(ctx, db, "SELECT n, customer FROM orders", func(n int, _ string) { placed = append(placed, n) })
		}),
	)
	f.orders = len(placed)
	for _, n := range placed {
		if invoices[n] == 0 {
			f.lost++
		}
		delete(invoices, n)
	}
	f.without = len(invoices)
	return f, err
}

// each reads numbers and customers of orders.
func each(ctx context.Context, db *sql.DB, query string, f func(n int, customer string)) error {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var n int
		var customer string
		if err := rows.Scan(&n, &customer); err != nil {
			return err
		}
		f(n, customer)
	}
	return rows.Err()
}

// done reports whether all is sent and has become invoices.
func done(ctx context.Context, o options) (ok bool, err error) {
	var waiting int
	if err := o.withShop(func(db *sql.DB) error {
		return db.QueryRowContext(ctx, "SELECT COUNT(*) FROM millrace_outbox").Scan(&waiting)
	}); err != nil || waiting > 0 {
		return false, err
	}
	f, err := compare(ctx, o)
	return f.lost == 0, err
}
