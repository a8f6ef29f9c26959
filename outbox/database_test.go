package outbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	_ "github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/outbox"
)

// database is one that tests run on, with an outbox table of the test's own in it.
type database struct {
	*sql.DB
	dialect outbox.Dialect
	driver  string
	address string
	name    string // of the table
}

// sqliteAddress is how the documentation says to open SQLite.
func sqliteAddress(file string) string {
	return "file:" + file + "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(10000)&_pragma=synchronous(OFF)&_txlock=immediate"
}

// onEach runs a test on every database.
func onEach(t *testing.T, test func(*testing.T, database)) {
	t.Run("sqlite", func(t *testing.T) {
		test(t, open(t, outbox.SQLite, "sqlite", sqliteAddress(filepath.Join(t.TempDir(), "test.db"))))
	})
	t.Run("postgres", func(t *testing.T) { test(t, onPostgres(t)) })
	t.Run("mariadb", func(t *testing.T) { test(t, open(t, outbox.MySQL, "mysql", services.MariaDB(t))) })
}

func onPostgres(t testing.TB) database {
	return open(t, outbox.Postgres, "pgx", services.Postgres(t))
}

func open(t testing.TB, dialect outbox.Dialect, driver, address string) database {
	t.Helper()
	db, err := sql.Open(driver, address)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(12)
	db.SetMaxIdleConns(12)
	d := database{DB: db, dialect: dialect, driver: driver, address: address, name: fmt.Sprintf("outbox_%08x", rand.Uint32())}
	t.Cleanup(func() {
		if dialect != outbox.SQLite {
			for _, suffix := range []string{"", "_version", "_slots", "_relays", "_parked", "_dead", "_locks"} {
				if _, err := db.Exec("DROP TABLE IF EXISTS " + d.name + suffix); err != nil {
					t.Error(err)
				}
			}
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// table makes the outbox.
func (d database) table(t testing.TB, config outbox.Config) *outbox.Table {
	t.Helper()
	table := d.without(t, config)
	if err := table.Create(t.Context(), d.DB); err != nil {
		t.Fatal(err)
	}
	return table
}

// without describes the outbox and does not make it.
func (d database) without(t testing.TB, config outbox.Config) *outbox.Table {
	t.Helper()
	config.Name = d.name
	table, err := outbox.NewTable(d.dialect, config)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// write publishes records in a transaction of their own.
func (d database) write(t testing.TB, table *outbox.Table, topic string, records ...framework.Record) {
	t.Helper()
	if err := d.inTx(t.Context(), func(tx *sql.Tx) error {
		return table.Publisher(outbox.SQL(tx)).Publish(t.Context(), topic, records...)
	}); err != nil {
		t.Fatal(err)
	}
}

func (d database) inTx(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := d.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}

// count is how many rows the outbox has.
func (d database) count(t testing.TB) (n int) {
	t.Helper()
	if err := d.QueryRow("SELECT COUNT(*) FROM " + d.name).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
