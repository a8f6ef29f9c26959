package framework

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/millrace/millrace/microstore"
)

// unpark does what is next for a parked key: a timer that it has slept through, or the first event that waits. done:
// nothing waits any more and the key is released, or the first has failed again.
func (t *task) unpark(s *Scope, r *rerun) (done bool, err error) {
	was, err := s.parkedKey(r.key)
	if err != nil {
		return true, err
	}
	if was == nil { // an earlier call has released it, or it is not parked yet
		t.decided(r)
		return true, nil
	}
	k := *was
	clock := t.watermark
	var head *parkedEvent
	var size int64
	if k.first < k.next {
		if head, size, err = s.waiting(r.key, k.first); err != nil {
			return false, err
		}
		clock = max(k.clock, head.stamp, t.held())
	}
	due, ok, err := s.sleeper(r.key, clock)
	if err != nil {
		return false, err
	}
	if ok {
		if err := s.wake(due); err != nil {
			return false, err
		}
		again := &parkedEvent{timer: &due, again: -1}
		return t.runKept(s, again, r.key, max(k.clock, due.At), true, false, r)
	}
	if head == nil {
		s.hinted = append(s.hinted, r.key)
		return true, Fatal(t.parking.keys.Delete(s.batch, r.key))
	}
	meant := r.Fault.Class != ClassParked && head.name() == r.Fault.Event.ID
	switch {
	case !meant:
	case head.timer == nil:
		head.record = mended(&head.record, &r.event.record)
	case len(r.event.read) > 0 && r.event.timer != nil && r.event.timer.At == head.timer.At && r.event.timer.Step == head.timer.Step:
		head.read = r.event.read
	}
	failed := false
	if !meant || !r.Discard {
		if failed, err = t.runKept(s, head, r.key, clock, true, true, r); err != nil {
			return false, err
		}
	}
	if err := s.remove(r.key, &k, k.first, size); err != nil {
		return false, err
	}
	if k.clock = clock; failed {
		head.again++
		if err := s.keep(r.key, &k, k.first, head); err != nil {
			return false, err
		}
		return true, s.setParked(r.key, k)
	}
	k.first++
	return false, s.setParked(r.key, k)
}

// runOnce runs an event or timer whose key was not parked for it, as if it came now.
func (t *task) runOnce(s *Scope, r *rerun) error {
	if r.Discard {
		return nil
	}
	s.key, s.watermark = r.key, t.watermark
	if t.parking != nil && r.key != "" {
		if k, err := s.parkedKey(r.key); err != nil {
			return err
		} else if k != nil { // it came after the event that the key waits for
			n := *k
			n.next++
			r.event.stamp = t.watermark
			if err := s.keep(r.key, &n, k.next, r.event); err != nil {
				return err
			}
			return s.setParked(r.key, n)
		}
	}
	_, err := t.runKept(s, r.event, r.key, t.watermark, false, false, r)
	return err
}

// runKept runs an event or timer again, at the watermark clock. failed: it has become a fault again. parks: its key is
// parked; waits: it stays where it is when it fails.
func (t *task) runKept(s *Scope, e *parkedEvent, key string, clock int64, parks, waits bool, r *rerun) (failed bool, err error) {
	s.again, s.asked, s.parks, s.waits, s.failed = e.again+1, r.order(), parks, waits, false
	defer func() { s.again, s.asked, s.parks, s.waits = 0, 0, false, false }()
	if e.timer != nil {
		s.watermark = clock
		n := t.stage.timers[e.timer.Step]
		if n == nil {
			return false, nil // its step is no longer part of the pipeline
		}
		err := t.callTimer(s, n, *e.timer, e.read, r.tooBig)
		return s.failed, err
	}
	p, lane := t.prepareKept(e, clock), microstore.Shard(key)%len(t.scopes)
	h := p.arena.header(0)
	if p.fate[0] == fateRun && h.Key != key {
		p.fate[0], p.errs = fateFault, map[int]error{0: Permanent(fmt.Errorf(
			"its key is %q, it was %q: an event that is sent again keeps its key", h.Key, key))}
	}
	if r.tooBig != nil {
		p.fate[0], p.errs = fateFault, map[int]error{0: r.tooBig}
	}
	s.key, s.header, s.record, s.timer, s.watermark = key, h, &p.records[0], nil, clock
	s.at, s.attempt, s.trail = p.work.source.node.index, 1, s.trail[:0]
	start := s.save()
	switch p.fate[0] {
	case fateRun:
		err = t.attempts(s, start, func() error { return unpanicked(t.runs(lane, s, start, p, 0)) })
	case fateFault:
		err = t.settle(s, start, p.errs[0])
	default: // the source passes it over
	}
	return s.failed, err
}

// prepareKept decodes an event that is run again.
func (t *task) prepareKept(e *parkedEvent, clock int64) *prepared {
	src := t.sources[0]
	gone := Permanent(fmt.Errorf("no source of the stage reads topic %q any more", e.topic))
	for _, other := range t.sources {
		if other.topic == e.topic {
			src, gone = other, nil
		}
	}
	b := &Batch{Topic: e.topic, Partition: t.partition, Origin: e.origin, Records: []Record{e.record}}
	p := &prepared{
		work: &work{batch: b, source: src}, records: b.Records, arena: src.node.source.reader.arena(1),
		fate: make([]fate, 1), owner: make([]uint8, 1), stamps: []int64{clock, clock},
	}
	if gone != nil {
		p.arena.header(0).fromRecord(&e.record, b)
		p.fate[0], p.errs = fateFault, map[int]error{0: gone}
		return p
	}
	at := *src
	at.position = false // it is behind the position, and is to run all the same
	p.work.source = &at
	p.errs = t.decodeRange(p, 0, 1)
	return p
}

// mended is a record as it is in a fault, where somebody may have changed it, with what a fault does not have.
func mended(r, by *Record) Record {
	m := *by
	m.ID, m.Key, m.Offset, m.Line = r.ID, r.Key, r.Offset, r.Line
	return m
}

// eventOf makes of a fault what failed.
func (t *task) eventOf(f *Fault) (*parkedEvent, error) {
	e := &parkedEvent{id: f.Event.ID, topic: f.Topic, again: f.Resubmitted}
	r, err := f.Event.Record()
	if err != nil {
		return nil, err
	}
	if f.Topic == timerTopic {
		e.read = f.Read
		for _, n := range t.stage.nodes {
			if n.sets(f) {
				e.timer = &microstore.Timer{At: r.Time.UnixNano(), Step: uint32(n.path), Key: r.Key, ID: r.ID, Payload: r.Value}
			}
		}
		return e, nil
	}
	r.Offset = f.Offset
	if i := strings.LastIndexByte(f.Place, ':'); i > 0 {
		if line, err := strconv.ParseInt(f.Place[i+1:], 10, 64); err == nil {
			e.origin, r.Line = f.Place[:i], line
		}
	}
	e.record = r
	return e, nil
}
