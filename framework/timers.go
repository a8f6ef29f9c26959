package framework

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/internal/watermark"
	"github.com/millrace/millrace/microstore"
)

// fire runs the lane's timers that are due at or before upTo, earliest first.
func (t *task) fire(s *Scope, upTo int64) error {
	for s.next <= upTo {
		shard, at := -1, int64(watermark.Max)
		for _, candidate := range s.shards {
			if due, ok := t.timers.Peek(candidate); ok && (due < at || shard < 0) {
				shard, at = candidate, due
			}
		}
		if shard < 0 || at > upTo {
			s.next = at
			if shard < 0 {
				s.next = watermark.Max
			}
			return nil
		}
		due, ok := t.timers.Pop(s.batch, shard, upTo)
		if !ok {
			s.next = at
			return nil
		}
		if s.fired++; s.fired > 2*timersARound {
			return errTooMany
		}
		if err := t.runTimer(s, due); err != nil {
			return err
		}
		s.next = watermark.Min
	}
	return nil
}

// errTooMany ends a round of which more timers fell due than were loaded for it: those that fired set others.
var errTooMany = fmt.Errorf("%w: more than %d timers", microstore.ErrTooBig, 2*timersARound)

// fireFew fires at most n of the timers that are due at or before upTo, the earliest of all lanes first, and returns
// up to when it came. Not all: others at that very moment are left.
func (t *task) fireFew(n, order int, upTo int64) (bound int64, all bool, err error) {
	last := int64(watermark.Min)
	for ; ; n-- {
		s, shard, at := t.earliest()
		switch {
		case s == nil || at > upTo:
			return upTo, true, nil
		case n == 0 && at > last:
			return at - 1, true, nil
		case n == 0:
			return last, false, nil
		}
		due, _ := t.timers.Pop(s.batch, shard, upTo)
		last = max(last, at)
		s.order = int32(order)
		if err := t.runTimer(s, due); err != nil {
			return 0, false, err
		}
	}
}

// due tells whether a timer in memory is due.
func (t *task) due(upTo int64) bool {
	s, _, at := t.earliest()
	return s != nil && at <= upTo
}

// earliest finds the earliest timer in memory, nil when there is none.
func (t *task) earliest() (lane *Scope, shard int, at int64) {
	for _, s := range t.scopes {
		for _, candidate := range s.shards {
			if due, ok := t.timers.Peek(candidate); ok && (lane == nil || due < at) {
				lane, shard, at = s, candidate, due
			}
		}
	}
	return lane, shard, at
}

func (t *task) runTimer(s *Scope, due microstore.Timer) error {
	n := t.stage.timers[due.Step]
	if n == nil {
		return nil // its step is no longer part of the pipeline
	}
	if t.parking != nil {
		if sleeps, err := s.sleepThrough(due); sleeps || err != nil {
			return err
		}
		s.parks = t.parksNow()
		defer func() { s.parks = false }()
	}
	return t.callTimer(s, n, due, nil, nil)
}

// callTimer calls the step that set a timer; tooBig, when not nil, makes a fault of it instead. What it read when it failed
// before it reads again.
func (t *task) callTimer(s *Scope, n *node, due microstore.Timer, read []HistoryRead, tooBig error) error {
	timer := Timer{At: time.Unix(0, due.At).UTC(), Key: due.Key, ID: due.ID, Payload: due.Payload}
	// One that was set for a time that had passed fires at the watermark at which it was set.
	s.key, s.header, s.record, s.timer, s.watermark = due.Key, nil, nil, &timer, max(due.At, s.watermark)
	s.at, s.trail, s.due = n.index, s.trail[:0], &due
	defer func() { s.timer, s.due, s.reads.again, s.reads.past = nil, nil, nil, nil }()
	start := s.save()
	err := s.reads.begin(n, read)
	if tooBig != nil {
		err = tooBig
	}
	if err != nil {
		err = t.settle(s, start, err)
	} else {
		err = t.attempts(s, start, func() error { return s.onTimer(n, start) })
	}
	if err == nil {
		err = Fatal(s.reads.err)
	}
	if s.told += s.reads.used; err == nil && s.told > readsRound {
		err = errReadsTooBig
	}
	return err
}
