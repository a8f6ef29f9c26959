package outbox_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
	"github.com/millrace/millrace/outbox/pglisten"
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

// BenchmarkLatency is the time from the return of a commit to the call of the publisher, with notifications, at up to
// 1000 events a second.
func BenchmarkLatency(b *testing.B) {
	d := database{sqltest.Postgres(b)}
	table := d.table(b, outbox.Config{})
	notifier, err := outbox.NewNotifier(table, d.DB, nil)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- notifier.Run(ctx) }()
	s := newSink()
	var lock sync.Mutex
	committed, arrived := map[string]time.Time{}, map[string]time.Time{}
	s.fail = func(_ context.Context, _ string, records []framework.Record) error {
		lock.Lock()
		defer lock.Unlock()
		for _, r := range records {
			arrived[r.ID] = time.Now()
		}
		return nil
	}
	_, stop := start(b, d, table, s, outbox.RelayConfig{Listener: pglisten.New(d.Address, table.Channel())})
	d.write(b, table, "events", framework.Record{ID: "first"})
	s.waitForDistinct(b, 1)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	b.ResetTimer()
	for n := range b.N {
		<-tick.C
		r := event("k", n)
		d.write(b, table, "events", r)
		at := time.Now()
		lock.Lock()
		committed[r.ID] = at
		lock.Unlock()
		notifier.Wake()
	}
	s.waitForDistinct(b, b.N+1)
	b.StopTimer()
	stop()
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	var took []time.Duration
	for id, at := range committed {
		took = append(took, max(0, arrived[id].Sub(at)))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms/p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms/p99")
}
