package outbox

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/sqltest"
)

// However many rows below a read wait, one that has appeared among them is told, and those that wait are not.
func TestReadLooksBelowAllThatWaits(t *testing.T) {
	sqltest.Servers(t, func(t *testing.T, d sqltest.Database) {
		table, err := NewTable(d.Dialect, Config{Name: d.Name})
		if err != nil {
			t.Fatal(err)
		}
		if err := table.Create(t.Context(), d.DB); err != nil {
			t.Fatal(err)
		}
		var records []framework.Record
		for i := range 500 {
			records = append(records, framework.Record{Key: "away"})
			if i == 450 {
				records = append(records, framework.Record{Key: "late"})
			}
		}
		records = append(records, framework.Record{Key: "next"})
		if err := d.InTx(t.Context(), func(tx *sql.Tx) error {
			return table.Publisher(SQL(tx)).Publish(context.Background(), "events", records...)
		}); err != nil {
			t.Fatal(err)
		}
		var last int64
		if err := d.QueryRow("SELECT MAX(id) FROM " + d.Name).Scan(&last); err != nil {
			t.Fatal(err)
		}
		relay, err := NewRelay(table, d.DB, nothing{}, RelayConfig{WindowRows: 50})
		if err != nil {
			t.Fatal(err)
		}
		slots := map[int]int64{}
		for slot := range Slots {
			slots[slot] = 1
		}
		result := relay.read(t.Context(), readRequest{after: last - 1, limit: 50, bytes: 1 << 20, slots: slots,
			waiting: map[keyID]bool{keyOf("events", "away", 0): true}})
		if err := errors.Join(result.err, t.Context().Err()); err != nil {
			t.Fatal(err)
		}
		if len(result.below) != 1 || result.below[0].record.Key != "late" || result.flooded {
			t.Errorf("%d rows below, flooded %v", len(result.below), result.flooded)
		}
		if len(result.rows) != 1 || result.rows[0].record.Key != "next" || !result.caughtUp {
			t.Errorf("%d rows above, caught up %v", len(result.rows), result.caughtUp)
		}
	})
}
