package inbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/inbox"
	"github.com/millrace/millrace/internal/testenv/sqltest"
)

// BenchmarkHandle is the cost of a message of which nothing is done but to be known afterwards, in PostgreSQL: in
// batches of 500, and in a transaction each.
func BenchmarkHandle(b *testing.B) {
	for _, size := range []int{500, 1} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			d := sqltest.Postgres(b)
			box, err := inbox.New(d.Dialect, "bench", inbox.Config{Name: d.Name})
			if err != nil {
				b.Fatal(err)
			}
			if err := box.Create(b.Context(), d.DB); err != nil {
				b.Fatal(err)
			}
			h := box.BatchHandler(d.DB, func(context.Context, *sql.Tx, []framework.Record) error { return nil })
			b.ReportAllocs()
			b.ResetTimer()
			for from := 0; from < b.N; from += size {
				records := make([]framework.Record, min(size, b.N-from))
				for i := range records {
					records[i].ID = fmt.Sprint("message-", from+i)
				}
				if result, err := h.HandleBatch(b.Context(), records); err != nil || result.Applied != len(records) {
					b.Fatalf("%+v, %v", result, err)
				}
			}
		})
	}
}
