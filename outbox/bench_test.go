package outbox_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
	"github.com/millrace/millrace/transport/memory"
)

// backlog writes rows of 200 bytes, of 1000 keys.
func backlog(b *testing.B, d database, table *outbox.Table, n int) {
	b.Helper()
	value := make([]byte, 200)
	for from := 0; from < n; from += 2000 {
		records := make([]framework.Record, min(2000, n-from))
		for i := range records {
			records[i] = framework.Record{ID: fmt.Sprint("event-", from+i), Type: "placed", Key: fmt.Sprint("key-", (from+i)%1000), Value: value}
		}
		d.write(b, table, "events", records...)
	}
}

// BenchmarkDrain is the cost of a row of 200 bytes of a backlog in PostgreSQL, sent into transport/memory; and, as a
// limit, of a bare loop of pgx that reads 2000 rows, hands them to the same transport, waits, and deletes them: without
// leases, bounds, retries, or a second look at anything.
func BenchmarkDrain(b *testing.B) {
	b.Run("relay", func(b *testing.B) {
		drain(b, func(d database, table *outbox.Table, publisher framework.Publisher) {
			relay, err := outbox.NewRelay(table, d.DB, publisher, outbox.RelayConfig{PollMin: time.Millisecond})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			ended := make(chan error, 1)
			go func() { ended <- relay.Run(ctx) }()
			for relay.Stats().Deleted < int64(b.N) {
				time.Sleep(time.Millisecond)
			}
			cancel()
			if err := <-ended; err != nil {
				b.Fatal(err)
			}
		})
	})
	b.Run("bare", func(b *testing.B) {
		drain(b, func(d database, _ *outbox.Table, publisher framework.Publisher) {
			conn, err := pgx.Connect(b.Context(), d.Address)
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close(context.Background())
			for sent := 0; sent < b.N; {
				ids, records, err := bareRead(b.Context(), conn, d.Name)
				if err != nil {
					b.Fatal(err)
				}
				if err := publisher.Publish(b.Context(), "events", records); err != nil {
					b.Fatal(err)
				}
				if _, err := conn.Exec(b.Context(), "DELETE FROM "+d.Name+" WHERE id = ANY ($1)", ids); err != nil {
					b.Fatal(err)
				}
				sent += len(ids)
			}
		})
	})
}

func drain(b *testing.B, run func(database, *outbox.Table, framework.Publisher)) {
	d := database{sqltest.Postgres(b)}
	table := d.table(b, outbox.Config{})
	topics, err := memory.New(memory.Config{Partitions: 4, AutoCreate: true, RetainEvents: 1 << 20, RetainBytes: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	defer topics.Close()
	publisher, err := topics.Publisher(framework.PublisherConfig{})
	if err != nil {
		b.Fatal(err)
	}
	backlog(b, d, table, b.N)
	b.ReportAllocs()
	b.ResetTimer()
	run(d, table, publisher)
	b.StopTimer()
	if n := len(topics.Records("events")); n != b.N || d.count(b) != 0 {
		b.Errorf("%d of %d rows arrived", n, b.N)
	}
}

func bareRead(ctx context.Context, conn *pgx.Conn, table string) (ids []int64, records []framework.Record, err error) {
	rows, err := conn.Query(ctx, "SELECT id, event_key, event_id, event_type, payload FROM "+table+" ORDER BY id LIMIT 2000")
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var key []byte
		var r framework.Record
		if err := rows.Scan(&id, &key, &r.ID, &r.Type, &r.Value); err != nil {
			return nil, nil, err
		}
		r.Key = string(key)
		ids, records = append(ids, id), append(records, r)
	}
	return ids, records, rows.Err()
}
