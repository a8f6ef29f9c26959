package inbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/inbox"
	"github.com/millrace/millrace/internal/testenv/sqltest"
)

// Old rows are purged while a consumer is at work: neither waits for the other, also where most rows are old, and the
// optimisers of MariaDB and MySQL would rather read all of them.
func TestPurgeWaitsForNobody(t *testing.T) {
	sqltest.Servers(t, func(t *testing.T, d sqltest.Database) {
		now := time.Date(2026, 11, 25, 23, 59, 59, 0, time.UTC)
		f := makeFixture(t, d, inbox.Config{Now: func() time.Time { return now }})
		h := f.box.BatchHandler(f.DB, func(context.Context, *sql.Tx, []framework.Record) error { return nil })
		var all []framework.Record
		for i := range 300 {
			all = append(all, framework.Record{ID: fmt.Sprint("old ", i), Time: now}, framework.Record{ID: fmt.Sprint("new ", i%20), Time: now.Add(8 * 24 * time.Hour)})
		}
		if _, err := h.HandleBatch(t.Context(), all); err != nil {
			t.Fatal(err)
		}
		now = now.Add(8 * 24 * time.Hour)
		tx, err := d.Begin()
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback()
		claim := func(id string) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if fresh, err := f.box.Claim(ctx, inbox.SQL(tx), framework.Record{ID: id, Time: now}); err != nil || !fresh {
				t.Errorf("claim %q: %v, %v", id, fresh, err)
			}
		}
		claim("open")
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if n, err := f.box.Purge(ctx, f.DB); err != nil || n != 300 {
			t.Errorf("%d are purged: %v", n, err)
		}
		claim("another")
	})
}
