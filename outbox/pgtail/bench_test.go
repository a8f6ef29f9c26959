package pgtail_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
	"github.com/millrace/millrace/outbox/pglisten"
)

// BenchmarkDrain is the cost of a row of 200 bytes that was committed while no relay ran, sent to a publisher that keeps
// nothing: from the log, and by polling.
func BenchmarkDrain(b *testing.B) {
	for _, mode := range []string{"log", "poll"} {
		b.Run(mode, func(b *testing.B) {
			d := open(b, sqltest.Postgres(b))
			config := outbox.RelayConfig{PollMin: time.Millisecond}
			if mode == "log" { // the slot has to be there before the rows
				config.Log = d.log
				relay, stop := d.start(b, forgetful{newSink()}, config)
				tailing(b, relay)
				stop()
			}
			value := make([]byte, 200)
			for from := 0; from < b.N; from += 2000 {
				records := make([]framework.Record, min(2000, b.N-from))
				for i := range records {
					records[i] = framework.Record{ID: fmt.Sprint("event-", from+i), Type: "placed", Key: fmt.Sprint("key-", (from+i)%1000), Value: value}
				}
				d.write(b, records...)
			}
			s := newSink()
			s.setFail(func(context.Context, string, []framework.Record) error { return errTaken })
			b.ReportAllocs()
			b.ResetTimer()
			relay, stop := d.start(b, forgetful{s}, config)
			eventually(b, "all is sent and deleted", func() bool { return relay.Stats().Deleted >= int64(b.N) })
			b.StopTimer()
			stop()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// BenchmarkLatency is the time from the return of a commit to the call of the publisher, at up to 1000 events a second:
// from the log; by polling that is told of commits; and by polling alone.
func BenchmarkLatency(b *testing.B) {
	for _, mode := range []string{"log", "notified", "poll"} {
		b.Run(mode, func(b *testing.B) { latency(b, mode) })
	}
}

func latency(b *testing.B, mode string) {
	d := open(b, sqltest.Postgres(b))
	config, wake := outbox.RelayConfig{}, func() {}
	switch mode {
	case "log":
		config.Log = d.log
	case "notified":
		notifier, err := outbox.NewNotifier(d.table, d.DB, nil)
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		ended := make(chan error, 1)
		go func() { ended <- notifier.Run(ctx) }()
		defer func() { cancel(); <-ended }()
		config.Listener, wake = pglisten.New(d.Address, d.table.Channel()), notifier.Wake
	}
	s := newSink()
	var lock sync.Mutex
	committed, arrived := map[string]time.Time{}, map[string]time.Time{}
	s.setFail(func(_ context.Context, _ string, records []framework.Record) error {
		lock.Lock()
		defer lock.Unlock()
		for _, r := range records {
			arrived[r.ID] = time.Now()
		}
		return nil
	})
	relay, stop := d.start(b, s, config)
	if mode == "log" {
		tailing(b, relay)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	b.ResetTimer()
	for n := range b.N {
		<-tick.C
		r := event("k", n)
		d.write(b, r)
		committed[r.ID] = time.Now()
		wake()
	}
	s.waitFor(b, b.N)
	b.StopTimer()
	stop()
	var took []time.Duration
	for id, at := range committed {
		took = append(took, max(0, arrived[id].Sub(at)))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms/p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms/p99")
}
