package outbox

import (
	"errors"
	"time"

	"github.com/millrace/millrace/framework"
)

// block is a key that failed.
type block struct {
	key      keyID
	slot     int
	next     int64 // the row that failed: the lowest of the key that is not sent
	attempts int
	err      error
	until    time.Time     // not before
	open     bool          // tried again: a pass has begun below next
	parked   bool          // written down, or about to be
	pending  bool          // about to be
	retry    time.Duration // of a parked one; 0: an operator decides
	taken    int64         // of the topic, when it failed by itself as the topic took nothing
	eventID  string        // in that row; attempts and all else are of this event
}

// reconcile compares the parked keys in the table with those that are known. The pass has begun at the first row.
func (l *loop) reconcile(parked []Parked) {
	seen := make(map[keyID]bool, len(parked))
	for _, p := range parked {
		key := keyOf(p.Topic, p.Key, p.Row)
		b := l.blocks[key]
		if b != nil && b.pending {
			continue
		}
		if b == nil || b.eventID != p.EventID {
			b = &block{key: key, slot: p.Slot, eventID: p.EventID, err: errors.New(p.Error)}
			l.blocks[key] = b
		}
		b.next, b.attempts = p.Row, max(b.attempts, p.Attempts)
		b.parked = p.RetryIn != 0
		b.open = !b.parked
		seen[key] = b.parked
	}
	for key, b := range l.blocks {
		if b.parked && !b.pending && !seen[key] {
			delete(l.blocks, key) // resumed, or its event is a dead letter
		}
	}
}

// forgetGone forgets keys that were to be tried again in the pass that ends, and whose row it has not met: another relay
// has sent it, or somebody has deleted it. The rows of a topic that was closed were not read.
func (l *loop) forgetGone() {
	for key, b := range l.blocks {
		q := l.queues[key.topic]
		if known, ok := l.rows[b.next]; b.open && (!ok || known.event != b.eventID) && (q == nil || !q.closed) {
			delete(l.blocks, key)
		}
	}
}

// fail puts a key aside whose row was not taken: for a while, or parked.
func (l *loop) fail(q *queue, f failure, now time.Time) error {
	if markOf(f.err) == framework.ClassFatal {
		return f.err
	}
	key := f.row.key()
	q.rows = l.dropRows(q.rows, func(r *row) bool { return r.key() == key })
	if _, ok := l.mine[f.row.slot]; !ok {
		return nil // another relay's by now
	}
	b := l.blocks[key]
	if b == nil || b.eventID != f.row.record.ID { // another one held it back, which is gone
		b = &block{key: key, slot: f.row.slot, eventID: f.row.record.ID}
		l.blocks[key] = b
	}
	b.next, b.err, b.open = f.row.id, f.err, false
	b.attempts++
	l.counters.update(func(s *Stats) { s.Retries++ })
	l.report("event "+b.eventID+" for "+q.topic+" was not taken", f.err)
	if f.row.unlisted() || !isPermanent(f.err) && b.attempts < l.config.ParkAfter { // it is put into the table before it can be parked
		wait := l.backoff(b.attempts)
		b.until = now.Add(wait)
		l.hookRetry(RetryInfo{Topic: q.topic, Key: f.row.record.Key, Attempt: b.attempts, Wait: wait, Err: f.err})
		return nil
	}
	l.setParked(b, q.topic, f.row.record.Key)
	return nil
}

// setParked parks a key that is put aside. After an error that may pass it is tried again by itself.
func (l *loop) setParked(b *block, topic, key string) {
	b.parked, b.pending, b.retry = true, true, 0
	info := Parked{Row: b.next, Slot: b.slot, Topic: topic, Key: key, EventID: b.eventID,
		Attempts: b.attempts, Error: errorText(b.err), RetryIn: -1}
	if !isPermanent(b.err) {
		b.retry = doubled(l.config.ParkedRetry, b.attempts-l.config.ParkAfter+1, time.Hour)
		info.RetryIn = b.retry
	}
	l.parks = append(l.parks, b)
	l.hookParked(info)
}
