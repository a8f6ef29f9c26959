package outbox

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/sqltest"
)

// makeTable makes an outbox.
func makeTable(t *testing.T, d sqltest.Database) *Table {
	t.Helper()
	table, err := NewTable(d.Dialect, Config{Name: d.Name})
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Create(t.Context(), d.DB); err != nil {
		t.Fatal(err)
	}
	return table
}

// begin begins a transaction that has written an event.
func begin(t *testing.T, d sqltest.Database, table *Table) *sql.Tx {
	t.Helper()
	tx, err := d.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Publisher(SQL(tx)).Publish(t.Context(), "events", framework.Record{ID: "open"}); err != nil {
		t.Fatal(err)
	}
	return tx
}

// What was sent is deleted while a transaction is open that has written a row, also from a table that is short: there the
// optimisers of MariaDB and MySQL would rather read all of it, and wait for that transaction.
func TestRemoveWaitsForNobody(t *testing.T) {
	sqltest.Servers(t, func(t *testing.T, d sqltest.Database) {
		table := makeTable(t, d)
		defer begin(t, d, table).Rollback()
		for _, n := range []int{1, 2, 3, 20} {
			if err := table.Publisher(SQL(d.DB)).Publish(t.Context(), "events", make([]framework.Record, n)...); err != nil {
				t.Fatal(err)
			}
			sent := committed(t, d)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			if err := table.remove(ctx, SQL(d.DB), sent, 1000); err != nil || len(sent) != n || d.Count(t, d.Name) != 0 {
				t.Errorf("%d rows, %d of which are left: %v", len(sent), d.Count(t, d.Name), err)
			}
			cancel()
		}
	})
}

// Relays look at what is parked while a transaction is open that has written an event, also where all that waits is parked:
// there MySQL would rather read the whole outbox than look for each row.
func TestParkedWaitsForNobody(t *testing.T) {
	sqltest.Servers(t, func(t *testing.T, d sqltest.Database) {
		table := makeTable(t, d)
		if err := table.Publisher(SQL(d.DB)).Publish(t.Context(), "events", make([]framework.Record, 300)...); err != nil {
			t.Fatal(err)
		}
		if _, err := d.ExecContext(t.Context(), table.sql(`INSERT INTO NAME_parked (row_id, slot, topic, event_key, event_id, attempts, error, retry_at)
SELECT id, slot, topic, event_key, event_id, 1, 'away', NOW_MILLIS + 3600000 FROM NAME`)); err != nil {
			t.Fatal(err)
		}
		if err := table.remove(t.Context(), SQL(d.DB), committed(t, d)[:1], 1000); err != nil {
			t.Fatal(err)
		}
		defer begin(t, d, table).Rollback()
		relay := &Relay{table: table, db: d.DB}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if parked, err := relay.refreshParked(ctx, map[int]int64{0: 1}); err != nil || len(parked) == 0 || d.Count(t, d.Name+"_parked") != 299 {
			t.Errorf("%d are parked in slot 0, %d in all: %v", len(parked), d.Count(t, d.Name+"_parked"), err)
		}
	})
}

// committed are the rows of the outbox.
func committed(t *testing.T, d sqltest.Database) (all []sentRow) {
	t.Helper()
	rows, err := d.Query("SELECT id, event_id FROM " + d.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var r sentRow
		if err := rows.Scan(&r.id, &r.event); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}
