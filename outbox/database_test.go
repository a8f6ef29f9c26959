package outbox_test

import (
	"database/sql"
	"testing"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
)

// database is one that tests run on, with an outbox of the test's own in it.
type database struct{ sqltest.Database }

// onEach runs a test on every database.
func onEach(t *testing.T, test func(*testing.T, database)) {
	sqltest.Each(t, func(t *testing.T, d sqltest.Database) { test(t, database{d}) })
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
	config.Name = d.Name
	table, err := outbox.NewTable(d.Dialect, config)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// write publishes records in a transaction of their own.
func (d database) write(t testing.TB, table *outbox.Table, topic string, records ...framework.Record) {
	t.Helper()
	if err := d.InTx(t.Context(), func(tx *sql.Tx) error {
		return table.Publisher(outbox.SQL(tx)).Publish(t.Context(), topic, records...)
	}); err != nil {
		t.Fatal(err)
	}
}

func (d database) count(t testing.TB) int { t.Helper(); return d.Count(t, d.Name) }
