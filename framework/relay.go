package framework

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/microstore"
)

// A relay sends the outbox rows of one sink, in the order of their commits, and forgets them when the sink has
// taken them. There is one for each topic, whatever the number of tasks, so a sink that can be cut back to a
// position, such as a file, has one writer and one position.
//
// A row is forgotten in a commit of its own, together with the sink's position. A crash before it sends the
// row again: the records have the ids that they had, and a Resumer is cut back first.
type relay struct {
	topic     string
	outbox    *microstore.Outbox
	store     *microstore.Store
	publisher Publisher
	env       *env
	limit     int64
	leftover  int      // rows of earlier runs that are still to be sent
	recovered *sending // waits for them; nil when nobody does
	hold      *sending // they wait for it; nil when there is nothing to wait for
	read      func(row []byte) ([]Record, error)
	refusals  *refusals // where records go that the sink refuses for good; nil when they end the run
	held      *heldBack // nil when nothing is held back

	merged  []Record // room of the sending goroutine
	current *sending // of the oldest commit that it is sending rows of

	lock    sync.Mutex
	queue   []pending
	bytes   int64         // of queue and of what is being sent
	changed chan struct{} // closed and made anew when queue or bytes change
	closing bool
	stopped chan struct{}
}

func newRelay(topic string, outbox *microstore.Outbox, publisher Publisher, e *env) *relay {
	return &relay{
		topic: topic, outbox: outbox, store: e.config.Store, publisher: publisher, env: e,
		read: func(row []byte) ([]Record, error) {
			records, _, err := ReadRecords(nil, row, 0, 0)
			return records, err
		},
		limit: e.config.OutboxBytes, changed: make(chan struct{}), stopped: make(chan struct{}),
	}
}

// wake lets the relay look again for what can be sent.
func (r *relay) wake() {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.signal()
}

// signal wakes everybody who waits for a change; the lock is held.
func (r *relay) signal() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// add queues a committed row, waiting while the backlog is over its bound.
func (r *relay) add(ctx context.Context, p pending) error {
	r.lock.Lock()
	for (r.bytes > 0 && r.bytes+p.bytes > r.limit || r.held.full(r.limit)) && !r.closing {
		changed := r.changed
		r.lock.Unlock()
		select {
		case <-changed: // or, the row is in the store; it is sent after the next start:
		case <-r.stopped:
			return errStopping
		case <-ctx.Done():
			return ctx.Err()
		}
		r.lock.Lock()
	}
	defer r.lock.Unlock()
	r.queue = append(r.queue, p)
	r.bytes += p.bytes
	r.signal()
	return nil
}

// resume cuts the sink back to its position and takes note of the last run's backlog.
func (r *relay) resume(ctx context.Context) error {
	if resumer, ok := r.publisher.(Resumer); ok {
		position, known, err := r.outbox.Position()
		if err != nil {
			return fmt.Errorf("framework: sink %q: %w", r.topic, err)
		}
		if err := resumer.Resume(ctx, r.topic, position, known); err != nil {
			return fmt.Errorf("framework: sink %q: %w", r.topic, err)
		}
		if !known { // it has to be before the first record goes out, or what a crash leaves would seem to be another's
			b := r.store.NewBatch()
			r.outbox.SetPosition(b, resumer.Position(r.topic))
			if err := r.store.Commit(ctx, b); err != nil {
				return fmt.Errorf("framework: sink %q: %w", r.topic, err)
			}
		}
	}
	r.leftover, _ = r.outbox.Backlog()
	return nil
}

// recover sends what the last run left in the outbox.
func (r *relay) recover(ctx context.Context) error {
	for after := int64(-1); r.leftover > 0; {
		rows, err := r.outbox.Rows(after, 4<<20)
		if err != nil {
			return fmt.Errorf("framework: outbox of sink %q: %w", r.topic, err)
		}
		var group []pending
		for i := range rows {
			if len(group) == r.leftover {
				break // the rest is of this run: it comes through the queue
			}
			records, err := r.read(rows[i].Data)
			if err != nil {
				return fmt.Errorf("framework: outbox of sink %q, row %d: %w", r.topic, rows[i].Seq(), err)
			}
			group = append(group, pending{relay: r, row: &rows[i], records: records})
			after = rows[i].Seq()
		}
		if len(group) == 0 {
			return nil
		}
		if err := r.send(ctx, group); err != nil {
			return err
		}
		r.leftover -= len(group)
	}
	return nil
}

// run sends what is added until close is called and the queue is empty, or ctx is done.
func (r *relay) run(ctx context.Context) {
	defer close(r.stopped)
	if !r.awaitHold(ctx) {
		return
	}
	if err := r.sendAll(ctx); err != nil && ctx.Err() == nil {
		r.env.fail(err)
	}
}

func (r *relay) sendAll(ctx context.Context) error {
	if err := r.sendHeld(ctx); err != nil {
		return err
	}
	if err := r.recover(ctx); err != nil {
		return err
	}
	r.recovered.sent(1)
	for {
		if err := r.sendHeld(ctx); err != nil {
			return err
		}
		r.lock.Lock()
		group, changed, closing := r.ready(), r.changed, r.closing
		r.lock.Unlock()
		if len(group) == 0 {
			if closing { // what waits for other relays waits in vain: they were closed before
				return nil
			}
			select {
			case <-changed:
			case <-r.held.due():
			case <-ctx.Done():
				return nil
			}
			continue
		}
		if err := r.send(ctx, group); err != nil {
			return err
		}
		r.lock.Lock()
		for _, p := range group {
			r.bytes -= p.bytes
		}
		r.signal()
		r.lock.Unlock()
	}
}

// awaitHold waits until what earlier runs have left may be sent; false when that will not be.
func (r *relay) awaitHold(ctx context.Context) bool {
	for r.hold != nil {
		r.lock.Lock()
		changed, closing := r.changed, r.closing
		r.lock.Unlock()
		if r.hold.done.Load() {
			break
		}
		if closing {
			return false
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// ready takes from the queue what can be sent; the lock is held.
func (r *relay) ready() []pending {
	n := 0
	for n < len(r.queue) && (r.queue[n].after == nil || r.queue[n].after.done.Load()) {
		n++
	}
	group := r.queue[:n:n]
	if r.queue = r.queue[n:]; len(r.queue) == 0 {
		r.queue = nil
	}
	return group
}

// close lets the relay end when it has sent all that was added.
func (r *relay) close() {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.closing = true
	r.signal()
}

// mergeUpTo is up to how many records rows that wait are published together, so that a sink that is far away takes much
// at a time. A single row may have more.
const mergeUpTo = 4096

// send publishes a group of rows, again and again until the sink takes it, and forgets them.
func (r *relay) send(ctx context.Context, group []pending) error {
	if r.current = group[0].sending; r.current == nil {
		r.current = r.recovered
	}
	for rest := group; len(rest) > 0; {
		n, size := 1, len(rest[0].records)
		for n < len(rest) && size+len(rest[n].records) <= mergeUpTo {
			size += len(rest[n].records)
			n++
		}
		records := rest[0].records
		if n > 1 {
			r.merged = r.merged[:0]
			for _, p := range rest[:n] {
				r.merged = append(r.merged, p.records...)
			}
			records = r.merged
		}
		if len(records) > 0 {
			if err := r.publish(ctx, records); err != nil {
				return err
			}
		}
		clear(r.merged)
		rest = rest[n:]
	}
	for _, p := range group {
		giveRecords(p.records)
	}
	if err := r.forget(ctx, group); err != nil {
		return err
	}
	for _, p := range group {
		p.sending.sent(1)
		if p.then != nil {
			p.then()
		}
	}
	return nil
}

// publish sends records until the sink takes them, but what is held back.
func (r *relay) publish(ctx context.Context, records []Record) error {
	if records = r.held.pass(records); len(records) == 0 {
		return nil
	}
	if err := failpoint.Hit("release.before"); err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		began := time.Now()
		err := r.publisher.Publish(ctx, r.topic, records)
		for _, hook := range r.env.hooks.release {
			hook.OnRelease(ReleaseInfo{Topic: r.topic, Records: len(records), Took: time.Since(began), Err: err})
		}
		if err == nil {
			return failpoint.Hit("release.after")
		}
		if errors.Is(err, ErrTooLarge) && (r.refusals != nil || slices.ContainsFunc(records, isFault)) {
			return r.publishApart(ctx, records, err)
		}
		// Unmarked errors of a sink are taken to pass: it may be away. One that says that it will not ever take the
		// records ends the run: nothing is lost, they stay in the outbox.
		if class, ok := marked(err); ok && class != ClassTransient {
			return fmt.Errorf("framework: sink %q: %w", r.topic, err)
		}
		wait := backoff(r.env.config.Retry, attempt)
		if ctx.Err() == nil {
			r.env.config.Logger.Warn("sink refused records; trying again", "topic", r.topic, "records", len(records),
				"attempt", attempt, "wait", wait, "error", err)
		}
		if err := sleep(ctx, wait); err != nil {
			return fmt.Errorf("framework: sink %q: stopped with %d records unsent, kept in the outbox: %w", r.topic, len(records), err)
		}
	}
}

func isFault(r Record) bool { return r.Type == FaultType }

// publishApart sends records of which at least one is larger than the sink takes: by halves, until that one is by itself. A
// dead letter is sent without what makes it too large, or in pieces where that is nowhere else; another record becomes one. What
// can be neither ends the run.
func (r *relay) publishApart(ctx context.Context, records []Record, err error) error {
	if half := len(records) / 2; half > 0 {
		if err := r.publish(ctx, records[:half]); err != nil {
			return err
		}
		return r.publish(ctx, records[half:])
	}
	record := &records[0]
	if cutFault(record) {
		r.env.config.Logger.Warn("a dead letter is larger than its topic takes; it is sent without the event's bytes, which are only where it came from",
			"topic", r.topic, "dead letter", record.ID, "event", record.Causes)
		return r.publish(ctx, records)
	}
	if r.refusals != nil && r.refusals.parks && record.Key != "" {
		r.holdBack(record, err)
		return nil
	}
	if r.refusals != nil && !record.Watermark {
		return r.refuse(ctx, record, err)
	}
	if halves := halve(record); halves != nil {
		r.env.config.Logger.Debug("a dead letter is larger than its topic takes; it is sent in pieces", "topic", r.topic, "dead letter", record.ID)
		return r.publish(ctx, halves)
	}
	if isFault(*record) {
		err = fmt.Errorf("it takes not even a dead letter without its event, or the smallest piece of one: raise what it takes, and start again; "+
			"what is not sent is kept in the outbox: %w", err)
	}
	return fmt.Errorf("framework: sink %q: %w", r.topic, err)
}

// forget removes rows that were sent, and keeps the sink's position.
func (r *relay) forget(ctx context.Context, group []pending) error {
	b := r.store.NewBatch()
	var held []*microstore.Row
	if r.held != nil && len(r.held.fresh) > 0 {
		var err error
		if b, held, err = r.keepHeld(ctx, b); err != nil {
			return fmt.Errorf("framework: sink %q: keep what is held back: %w", r.topic, err)
		}
	}
	for _, p := range group {
		if p.row != nil {
			r.outbox.Remove(b, p.row.Seq())
		}
	}
	if resumer, ok := r.publisher.(Resumer); ok {
		r.outbox.SetPosition(b, resumer.Position(r.topic))
	}
	if err := r.store.Commit(ctx, b); err != nil {
		return fmt.Errorf("framework: sink %q: forget what was sent: %w", r.topic, err)
	}
	if len(held) > 0 {
		r.areHeld(held)
	}
	return failpoint.Hit("release.forgotten")
}

// spare are slices of records that have been sent, for the next ones.
var spare sync.Pool

// takeRecords returns an empty slice with room for about n records.
func takeRecords(n int) []Record {
	if s, ok := spare.Get().(*[]Record); ok && cap(*s) >= n {
		return (*s)[:0]
	}
	return make([]Record, 0, n)
}

// giveRecords takes back a slice that nobody uses any more.
func giveRecords(s []Record) {
	clear(s)
	spare.Put(&s)
}
