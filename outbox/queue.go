package outbox

import (
	"time"

	"github.com/millrace/millrace/framework"
)

// queue is what is to be sent to a topic, one group at a time.
type queue struct {
	topic   string
	rows    []*row
	busy    bool
	attempt int       // failures in a row of the topic as a whole
	taken   int64     // rows that were sent
	retryAt time.Time // not before
	closed  bool      // rows were put aside: none are taken until a pass begins below them
	next    int64     // the lowest of those
	err     error
}

// unknown reports whether a row below where a read began has appeared since: its event is not in memory, and does not wait.
func (l *loop) unknown(r *row) bool {
	epoch, ok := l.mine[r.slot]
	if begun, inPass := l.log.slots[r.slot]; !ok || !inPass || begun != epoch {
		return false
	}
	if known, ok := l.rows[r.id]; ok && known.event == r.record.ID {
		return false
	}
	if b := l.blocks[r.key()]; b != nil && !b.open {
		return false
	}
	q := l.queues[r.topic]
	return q == nil || !q.closed
}

// givenTwice reports whether a row's number is in memory as another event's, which the database has forgotten, see
// Table.remove.
func (l *loop) givenTwice(r *row) bool {
	known, ok := l.rows[r.id]
	return ok && known.event != r.record.ID
}

// waitForNumber ends the pass at a row whose number was given twice: what is above may be of its key. Passes begin below
// it, and end here again, until the other event is out of memory. What is queued from there on is read again, or is
// forgotten as the database did, so that this takes no longer than what is being sent and deleted.
func (l *loop) waitForNumber(id int64, now time.Time) {
	for _, q := range l.queues {
		var below, aside []*row
		for _, r := range q.rows {
			if r.id < id {
				below = append(below, r)
			} else {
				aside = append(aside, r)
			}
		}
		q.rows = below
		l.putAside(q, aside)
	}
	l.log.late(id)
	l.log.at = now.Add(l.config.PollMin)
}

// accept takes a row that was read into its queue, unless it is there already or has to wait.
func (l *loop) accept(r *row) bool {
	l.log.see(r.id)
	epoch, ok := l.mine[r.slot]
	if begun, inPass := l.log.slots[r.slot]; !ok || !inPass || begun != epoch {
		return false
	}
	if _, ok := l.rows[r.id]; ok {
		return false
	}
	if b := l.blocks[r.key()]; b != nil && !b.open {
		return false
	}
	q := l.queues[r.topic]
	if q == nil {
		q = &queue{topic: r.topic}
		l.queues[r.topic] = q
	}
	if q.closed {
		q.next = min(q.next, r.id)
		return false
	}
	l.queueRow(q, r)
	return true
}

func (l *loop) queueRow(q *queue, r *row) {
	if !l.sequence || r.unlisted() { // places in the log do not compare with ids
		delete(r.record.Metadata, MetadataSequence)
	}
	q.rows = append(q.rows, r)
	l.rows[r.id] = knownRow{r.slot, r.record.ID}
	l.bytes += r.bytes
}

// startSends begins a group for each topic that has something to send.
func (l *loop) startSends(now time.Time) {
	if l.sendCtx.Err() != nil {
		return
	}
	for _, q := range l.queues {
		if q.busy || len(q.rows) == 0 || now.Before(q.retryAt) {
			continue
		}
		n, size := 1, q.rows[0].bytes
		for n < len(q.rows) && n < l.config.BatchRows && size+q.rows[n].bytes <= l.config.BatchBytes {
			size += q.rows[n].bytes
			n++
		}
		d := &delivery{
			relay: l.Relay, ctx: l.sendCtx, topic: q.topic, attempt: q.attempt + 1, group: q.rows[:n:n],
			until: func() time.Time { _, _, until := l.lease.held(); return until },
		}
		if q.rows = q.rows[n:]; len(q.rows) == 0 {
			q.rows = nil
		}
		q.busy = true
		l.sending++
		go func() { l.sends <- d.deliver() }()
	}
}

// handleSend sorts out what became of a group.
func (l *loop) handleSend(d *delivery, now time.Time) error {
	l.sending--
	q := l.queues[d.topic]
	q.busy = false
	var rest []*row
	for _, r := range d.group {
		if !d.sent[r.id] {
			rest = append(rest, r)
			continue
		}
		l.sent = append(l.sent, sentRow{r.id, r.record.ID})
		delete(l.tail.unlisted, r.id)
		delete(l.tail.list, r.id)
		l.bytes -= r.bytes
		if b := l.blocks[r.key()]; b != nil && b.open {
			delete(l.blocks, r.key())
		}
	}
	l.counters.update(func(s *Stats) { s.Sent += int64(len(d.sent)) })
	if len(d.sent) > 0 {
		q.attempt = 0
		q.taken += int64(len(d.sent))
	}
	if d.outage == nil && len(d.failed) > 0 && len(l.blocks)+len(d.failed) > l.config.MaxBlocked {
		d.outage, d.failed = d.failed[0].err, nil // too many to keep apart
	}
	switch {
	case d.outage != nil && d.cutOff(d.outage):
		// What is queued behind must not be sent first, even if the lease was renewed in the same moment.
		l.putAside(q, append(rest, q.rows...))
		q.rows = nil
	case d.outage != nil:
		return l.wait(q, rest, d, now)
	default:
		q.attempt, q.err, q.retryAt = 0, nil, time.Time{}
		for _, f := range d.failed {
			if err := l.fail(q, f, now); err != nil {
				return err
			}
		}
		for _, r := range rest {
			l.forget(r)
		}
	}
	return nil
}

// wait keeps a group for the next attempt at its topic; the rest is put aside.
func (l *loop) wait(q *queue, rest []*row, d *delivery, now time.Time) error {
	err := d.outage
	if markOf(err) == framework.ClassFatal {
		return err
	}
	q.rows = append(rest, q.rows...)
	// Rows whose slot has gone meanwhile are another relay's.
	q.rows = l.dropRows(q.rows, func(r *row) bool { _, ok := l.mine[r.slot]; return !ok })
	if n := l.keeps(q.rows); n < len(q.rows) {
		aside := q.rows[n:]
		q.rows = q.rows[:n:n]
		l.putAside(q, aside)
	}
	q.attempt++
	wait := l.backoff(q.attempt)
	q.retryAt, q.err = now.Add(wait), err
	if q.closed && q.attempt > isolateAfter {
		l.rotate(q, d.failed, now)
	}
	l.counters.update(func(s *Stats) { s.Retries++ })
	l.hookRetry(RetryInfo{Topic: q.topic, Attempt: q.attempt, Wait: wait, Err: err})
	l.report("the topic takes nothing: trying again: "+q.topic, err)
	return nil
}

// keeps is how many rows of a topic that waits stay in memory: not more than are sent at once, and all that wait at most
// half of the window, to leave room for other topics. One row always stays.
func (l *loop) keeps(rows []*row) (n int) {
	share := 2 * max(1, len(l.queues))
	most, mostBytes := min(l.config.BatchRows, l.config.WindowRows/share), min(l.config.BatchBytes, l.config.WindowBytes/share)
	for size := 0; n < len(rows); n++ {
		size += rows[n].bytes
		if n > 0 && (n >= most || size > mostBytes) {
			break
		}
	}
	return n
}

// rotate puts the keys at the front of a queue aside, so that the next attempt is with others: perhaps only those at the
// front fail. That brings a key nearer to being parked when it has failed by itself, and its topic has taken others since
// it did so before.
func (l *loop) rotate(q *queue, failed []failure, now time.Time) {
	if len(l.blocks)+len(q.rows) > l.config.MaxBlocked {
		return
	}
	alone := make(map[keyID]bool, len(failed))
	for _, f := range failed {
		alone[f.row.key()] = true
	}
	for _, r := range q.rows {
		b := l.blocks[r.key()]
		if b != nil && !b.open {
			continue // by an earlier row
		}
		if b == nil || b.eventID != r.record.ID {
			b = &block{key: r.key(), slot: r.slot, eventID: r.record.ID, taken: q.taken}
			l.blocks[r.key()] = b
		}
		b.next, b.err, b.open, b.until = r.id, q.err, false, now.Add(l.config.RetryMost)
		if alone[r.key()] && b.taken != q.taken {
			b.attempts, b.taken = b.attempts+1, q.taken
			if b.attempts >= l.config.ParkAfter {
				l.setParked(b, q.topic, r.record.Key)
			}
		}
	}
	q.rows = l.dropRows(q.rows, func(*row) bool { return true })
}

// putAside forgets rows, behind which none are queued, and closes the queue until a pass begins below them.
func (l *loop) putAside(q *queue, rows []*row) {
	if len(rows) == 0 {
		return
	}
	lowest := rows[0].id
	for _, r := range rows {
		lowest = min(lowest, r.id)
		l.forget(r)
	}
	if !q.closed {
		q.closed, q.next = true, lowest
	}
	q.next = min(q.next, lowest)
}
