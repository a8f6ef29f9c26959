package workload

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/memory"
)

// Soak runs the join over n events that are published as it goes, and prints the heap and the resident memory of
// the process at ten points. It rounds n down to a multiple of 40,000. Event time moves on so that windows close and histories expire.
func Soak(n int, out io.Writer) error {
	n -= n % (2 * shift) // whole windows of payments
	dir, err := os.MkdirTemp("", "millrace-soak")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	store, err := microstore.Open(microstore.Config{Dir: dir})
	if err != nil {
		return err
	}
	defer store.Close()
	topics, err := memory.New(memory.Config{Partitions: partOf, AutoCreate: true, RetainEvents: 1 << 15})
	if err != nil {
		return err
	}
	runner, err := framework.New(framework.Config{Store: store, Transport: topics}, confirmations())
	if err != nil {
		return err
	}
	fed := make(chan error, 1)
	go func() { fed <- feed(topics, n) }()
	began := time.Now()
	fmt.Fprintln(out, "| events | heap in use, MiB | resident, MiB | of it mapped files | keys on disk, MiB | large values |\n|---|---|---|---|---|---|")
	watch, stop := context.WithCancel(context.Background())
	watched := make(chan struct{})
	go func() { defer close(watched); report(watch, runner, store, n, out) }()
	err = runner.Run(context.Background())
	stop()
	<-watched
	if err != nil {
		return err
	}
	if err := <-fed; err != nil {
		return err
	}
	pairs := int(runner.Counts("join", "paid").Out)
	fmt.Fprintf(out, "\n%d events, %d pairs, in %s\n", n, pairs, time.Since(began).Round(time.Second))
	return expect("pairs", pairs, n/2)
}

// feed publishes n events in blocks, each a whole number of windows of payments, an hour of event time or so.
func feed(topics *memory.Transport, n int) error {
	const block = 2 * shift
	o, p := orders(block), payments(block)
	for done := 0; done < n/2; done += block {
		at := time.Duration(done) * 200 * time.Millisecond
		size := min(block, n/2-done)
		if err := topics.Publish("orders", later(o[:size], at, done)...); err != nil {
			return err
		}
		if err := topics.Publish("payments", later(p[:size], at, done)...); err != nil {
			return err
		}
	}
	return topics.End("orders", "payments")
}

// later are the same events at another time, under other ids.
func later(records []framework.Record, by time.Duration, number int) []framework.Record {
	from, to := `"order-`, fmt.Sprintf(`"order-%d-`, number)
	moved := make([]framework.Record, len(records))
	for i, r := range records {
		r.ID = fmt.Sprintf("%d-%s", number, r.ID)
		value := strings.ReplaceAll(string(r.Value), from, to)
		old := r.Time.Format(time.RFC3339Nano)
		r.Time = r.Time.Add(by)
		r.Value = []byte(strings.Replace(value, old, r.Time.Format(time.RFC3339Nano), 1))
		moved[i] = r
	}
	return moved
}

func report(ctx context.Context, runner *framework.Runner, store *microstore.Store, n int, out io.Writer) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	next := int64(n / 10)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		seen := runner.Counts("join", "orders").In + runner.Counts("join", "payments").In
		if seen < next {
			continue
		}
		next += int64(n / 10)
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		stats := store.Stats()
		all, mapped := resident()
		fmt.Fprintf(out, "| %d | %d | %d | %d | %d | %d |\n", seen, m.HeapInuse>>20, all>>20, mapped>>20,
			stats.LSMBytes>>20, stats.VlogBytes>>20)
	}
}

// resident is the resident memory of the process, and how much of it is files that are mapped, which the system takes
// back when it needs the room; 0 where the system does not tell.
func resident() (all, mapped int64) {
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, 0
	}
	var size, pages, shared int64
	if _, err := fmt.Sscan(string(raw), &size, &pages, &shared); err != nil {
		return 0, 0
	}
	page := int64(os.Getpagesize())
	return pages * page, shared * page
}
