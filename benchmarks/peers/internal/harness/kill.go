package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/benchmarks/peers/internal/orders"
)

// killRate is in records a second, unless another is asked for.
const killRate = 1000

// killed measures how a system comes back. It has made its state of a run's orders and goes on with input at a rate, that
// also comes while it is down.
func (t *trial) killed(ctx context.Context) (fault, err error) {
	state := orders.Set{Workload: t.set.Workload, Orders: t.run.Orders}.Inputs()
	f := newFeed(t.broker, t.set, t.ordered, t.paid)
	for i := range state {
		f.send(ctx, i)
	}
	if err := f.flush(ctx); err != nil {
		return nil, err
	}
	p, err := t.start()
	if err != nil {
		return nil, err
	}
	defer p.stop()
	client, err := t.broker.reader(t.out)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	w := &watch{trial: t, client: client, arrived: make([]time.Time, t.set.Orders)}
	causes, due := f.causes(), 0
	for _, last := range causes {
		if last < state {
			due++
		}
	}
	fault, err = w.until(ctx, p, func() bool { return t.tally.Came >= due })
	if fault != nil || err != nil {
		return fault, err
	}
	live := pace{time.Now(), state, t.killRate()}
	feeding, stop := context.WithCancel(ctx)
	fed := make(chan error, 1)
	go func() { fed <- f.follow(feeding, live, t.set.Inputs()) }()
	fault, err = t.killAndWait(ctx, p, w, live, causes)
	stop() // all that is due was sent, or it does not matter
	if fedErr := <-fed; fault == nil && err == nil {
		err = fedErr
	}
	return fault, err
}

func (c *comparison) killRate() float64 {
	if c.Rate > 0 {
		return c.Rate
	}
	return killRate
}

// killAndWait kills p, starts the system again, and returns when all outputs are there.
func (t *trial) killAndWait(ctx context.Context, p *process, w *watch, live pace, causes []int) (fault, err error) {
	fault, err = w.until(ctx, p, func() bool { return time.Since(live.began) > t.WarmUp })
	if fault != nil || err != nil {
		return fault, err
	}
	t.result.PeakRSS, t.result.PeakAnonymous = peakRSS(p.cmd.Process.Pid), p.anonymous.Load()
	killed := time.Now()
	p.kill()
	if w.before, err = t.broker.ends(ctx, t.out); err != nil {
		return nil, err
	}
	t.result.State = diskUse(t.state)
	if t.run.Empty {
		if err := errors.Join(os.RemoveAll(t.state), os.MkdirAll(t.state, 0o755)); err != nil {
			return nil, err
		}
	}
	again, err := t.start()
	if err != nil {
		return nil, err
	}
	defer again.stop()
	fault, err = w.until(ctx, again, func() bool { return t.tally.Missing() == 0 && time.Since(w.last) > settle })
	if w.next.IsZero() || err != nil {
		return fault, err
	}
	t.result.NextOutput = w.next.Sub(killed).Seconds()
	if fault == nil {
		t.result.CaughtUp = caughtUp(w.arrived, causes, live, w.next).Sub(killed).Seconds()
	}
	return fault, nil
}

// caughtUp is when the last output came of those whose causes had been sent when the first came after the kill.
func caughtUp(arrived []time.Time, causes []int, live pace, next time.Time) time.Time {
	last := next
	for order, at := range arrived {
		if !live.due(causes[order]).After(next) && at.After(last) {
			last = at
		}
	}
	return last
}

// watch reads the outputs as they come.
type watch struct {
	*trial
	client *kgo.Client
	// arrived is when the output of each order came for the first time.
	arrived []time.Time
	// before is where the output topic ended after the kill.
	before map[int32]int64
	// last is when an output came, fresh when one came that had not been there, next when the first such one came that was
	// written after the kill.
	last, fresh, next time.Time
}

// until reads until done says so, the process ends, or nothing that is new has come for as long as the patience lasts.
func (w *watch) until(ctx context.Context, p *process, done func() bool) (fault, err error) {
	began := time.Now()
	for !done() {
		wait, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		fetches := w.client.PollFetches(wait)
		cancel()
		now := time.Now()
		fetches.EachRecord(func(r *kgo.Record) { w.take(r, now) })
		select {
		case <-p.done:
			return p.ended(), nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		default:
		}
		idle := now.Sub(began)
		if w.fresh.After(began) {
			idle = now.Sub(w.fresh)
		}
		if idle > w.Patience {
			return fmt.Errorf("no new output for %s; %d of %d are missing", w.Patience, w.tally.Missing(), w.tally.Due), nil
		}
	}
	return nil, nil
}

func (w *watch) take(r *kgo.Record, now time.Time) {
	if r.Attrs.IsControl() {
		return
	}
	w.last = now
	order, fresh := w.tally.Add(r.Key, r.Value)
	if !fresh {
		return
	}
	w.fresh, w.arrived[order] = now, now
	if w.before != nil && w.next.IsZero() && r.Offset >= w.before[r.Partition] {
		w.next = now
	}
}
