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

// Soak runs the join over n events that are published as it goes, and prints the heap and the resident memory of the
// process at about ten points. Event time moves on so that windows close and histories expire. Memory that grows over the
// second half is an error. n is rounded down to a multiple of 40,000.
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
	topics, err := memory.New(memory.Config{Partitions: partOf, AutoCreate: true, RetainEvents: 1 << 12})
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
	watch, stop := context.WithCancel(context.Background())
	watched := make(chan []point, 1)
	go func() { watched <- report(watch, runner, store, n, out) }()
	err = runner.Run(context.Background())
	stop()
	points := <-watched
	if err != nil {
		return err
	}
	if err := <-fed; err != nil {
		return err
	}
	pairs := int(runner.Counts("join", "paid").Out)
	fmt.Fprintf(out, "\n%d events, %d pairs, in %s\n", n, pairs, time.Since(began).Round(time.Second))
	if err := expect("pairs", pairs, n/2); err != nil {
		return err
	}
	return flat(points, n, out)
}

// feed publishes n events, a whole number of windows of payments, a thousand orders and a thousand payments at a time.
func feed(topics *memory.Transport, n int) error {
	const few = 1000
	o, p := orders(shift), payments(shift)
	for done := 0; done < n/2; done += shift {
		at := time.Duration(done) * 200 * time.Millisecond
		for i := 0; i < shift; i += few {
			if err := topics.Publish("orders", later(o[i:i+few], at, done)...); err != nil {
				return err
			}
			if err := topics.Publish("payments", later(p[i:i+few], at, done)...); err != nil {
				return err
			}
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

// point is the memory of the process when it has processed so many events.
type point struct{ events, bytes float64 }

// report prints the memory at about ten points, and returns it, without mapped files, at about a thousand.
func report(ctx context.Context, runner *framework.Runner, store *microstore.Store, n int, out io.Writer) (points []point) {
	fmt.Fprintln(out, "| events | heap in use, MiB | idle, not given back | resident, MiB | of it mapped files | keys on disk, MiB | large values |\n"+
		"|---|---|---|---|---|---|---|")
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	nextRow, nextPoint := int64(n/10), int64(0)
	for {
		select {
		case <-ctx.Done():
			return points
		case <-tick.C:
		}
		seen := runner.Counts("join", "orders").In + runner.Counts("join", "payments").In
		all, mapped := resident()
		if seen >= nextPoint {
			nextPoint = seen + int64(n/1000)
			points = append(points, point{float64(seen), float64(all - mapped)})
		}
		if seen < nextRow {
			continue
		}
		nextRow += int64(n / 10)
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		stats := store.Stats()
		fmt.Fprintf(out, "| %d | %d | %d | %d | %d | %d | %d |\n", seen, m.HeapInuse>>20, (m.HeapIdle-m.HeapReleased)>>20, all>>20, mapped>>20,
			stats.LSMBytes>>20, stats.VlogBytes>>20)
	}
}

// mostGrowth is how much of its mean a straight line through the memory over the second half may rise. Less would be the
// noise of garbage collections.
const mostGrowth = 0.1

// flat is an error when memory grew over the second half.
func flat(points []point, n int, out io.Writer) error {
	var half []point
	for _, p := range points {
		if p.events >= float64(n)/2 && p.bytes > 0 {
			half = append(half, p)
		}
	}
	if len(half) < 100 {
		_, err := fmt.Fprintf(out, "memory was measured at %d points of the second half: too few to tell whether it grows\n", len(half))
		return err
	}
	mean, slope := line(half)
	grown := slope * float64(n) / 2
	fmt.Fprintf(out, "memory without mapped files over the second half: %.0f MiB, rising by %.1f%% (%d points)\n",
		mean/(1<<20), 100*grown/mean, len(half))
	if grown > mostGrowth*mean {
		return fmt.Errorf("memory grew by %.0f of %.0f MiB over the second half", grown/(1<<20), mean/(1<<20))
	}
	return nil
}

// line is the straight line through points by least squares: its mean, and its slope in bytes an event.
func line(points []point) (mean, slope float64) {
	var events, product, square float64
	for _, p := range points {
		events += p.events / float64(len(points))
		mean += p.bytes / float64(len(points))
	}
	for _, p := range points {
		product += (p.events - events) * (p.bytes - mean)
		square += (p.events - events) * (p.events - events)
	}
	return mean, product / square
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
