// Package sqltest opens the SQL databases that test suites run on: SQLite always, PostgreSQL, MariaDB and MySQL where package
// services finds them.
package sqltest

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	_ "github.com/go-sql-driver/mysql" // the drivers that tests use
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/millrace/millrace/internal/sqldb"
	"github.com/millrace/millrace/internal/testenv/services"
)

// Database is an open one, with a name for the tables of a test.
type Database struct {
	*sql.DB
	Dialect sqldb.Dialect
	// Driver and Address open it again, from another process too.
	Driver, Address string
	// Name is what the names of the test's tables begin with; they are dropped at its end.
	Name string
}

// Each runs a test on every database.
func Each(t *testing.T, test func(*testing.T, Database)) {
	t.Run("sqlite", func(t *testing.T) { test(t, SQLite(t)) })
	Servers(t, test)
}

// Servers runs a test on every database that is a server.
func Servers(t *testing.T, test func(*testing.T, Database)) {
	t.Run("postgres", func(t *testing.T) { test(t, Postgres(t)) })
	MySQLs(t, test)
}

// MySQLs runs a test on every database of the dialect MySQL.
func MySQLs(t *testing.T, test func(*testing.T, Database)) {
	t.Run("mariadb", func(t *testing.T) { test(t, MariaDB(t)) })
	t.Run("mysql", func(t *testing.T) { test(t, MySQL(t)) })
}

// SQLite is a database in a file, opened as the documentation says. It does not wait for the disk.
func SQLite(t testing.TB) Database {
	t.Helper()
	return Open(t, sqldb.SQLite, "sqlite", "file:"+filepath.Join(t.TempDir(), "test.db")+
		"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(20000)&_pragma=synchronous(OFF)&_txlock=immediate")
}

// Postgres is a PostgreSQL database.
func Postgres(t testing.TB) Database {
	t.Helper()
	return Open(t, sqldb.Postgres, "pgx", services.Postgres(t))
}

// MariaDB is a MariaDB database.
func MariaDB(t testing.TB) Database {
	t.Helper()
	return Open(t, sqldb.MySQL, "mysql", services.MariaDB(t))
}

// MySQL is a database of MySQL itself.
func MySQL(t testing.TB) Database {
	t.Helper()
	return Open(t, sqldb.MySQL, "mysql", services.MySQL(t))
}

// Open opens a database until the end of the test.
func Open(t testing.TB, dialect sqldb.Dialect, driver, address string) Database {
	t.Helper()
	db, err := sql.Open(driver, address)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(12)
	db.SetMaxIdleConns(12)
	d := Database{db, dialect, driver, address, fmt.Sprintf("test_%08x", rand.Uint32())}
	t.Cleanup(func() {
		if err := d.drop(); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// drop removes the test's tables; SQLite's go with their file.
func (d Database) drop() error {
	if d.Dialect == sqldb.SQLite {
		return nil
	}
	var tables []string
	rows, err := d.Query("SELECT table_name FROM information_schema.tables WHERE table_name LIKE '" + d.Name + "%'")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			return err
		}
		tables = append(tables, table)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, table := range tables { // partitions have gone with their table
		if _, err := d.Exec("DROP TABLE IF EXISTS " + table); err != nil {
			return err
		}
	}
	return nil
}

// InTx runs f in a transaction, which is committed unless f returns an error.
func (d Database) InTx(ctx context.Context, f func(*sql.Tx) error) error {
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

// Count is how many rows a table has.
func (d Database) Count(t testing.TB, table string) (n int) {
	t.Helper()
	if err := d.QueryRow("SELECT COUNT(*) FROM " + table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
