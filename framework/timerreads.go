package framework

import (
	"fmt"
	"slices"

	"github.com/millrace/millrace/microstore"
)

// A timer finds what it is about in histories: the order that nobody has paid. When it fails, because of a step behind its
// own, and is resubmitted, they may have let go of it: the window has closed. So its fault has what it read, and when it
// is resubmitted it reads that again. Whatever has come meanwhile, it decides as it did when its time came.
//
// While a timer runs only the ranges that it asks for are noted. When there is a fault they are read once more, which
// gives the same: nothing of the timer's has stayed in the store, and while its step changes nothing, nothing else does.
//
// A timer whose step changes state while it runs is another matter. What it read then and writes now would undo what has
// been written since. It runs on what there is, and its faults have no reads.

const (
	// readsBytes bounds what is told, as JSON, of the reads of one timer.
	readsBytes = 256 << 10
	// readsRound bounds that of all timers of a lane in a round.
	readsRound = 16 << 20
	// readsMost bounds the ranges that one timer may ask for.
	readsMost = 64
)

// errReadsTooBig ends a round in which so many timers failed that what they read does not fit.
var errReadsTooBig = fmt.Errorf("%w: more than %d bytes of what timers that failed had read", microstore.ErrTooBig, readsRound)

// timerReads is what the timer of a lane that runs has read. It is valid while Scope.timer is set.
type timerReads struct {
	node  int // its step: reads of steps behind it are no matter
	made  []span
	loose bool // its step has changed state, or asked for more than is noted

	again []HistoryRead // what it read when it failed before,
	past  []pastRead    // and now reads again

	used int   // bytes of reads in its faults
	err  error // of reading once more
}

// span is a range of a history.
type span struct {
	of       readable
	match    string
	from, to int64
}

// readable is a history of whatever type.
type readable interface {
	label() string
	// tell reads a range for a fault; cut when that takes more than room bytes.
	tell(s *Scope, r span, room int) (told HistoryRead, bytes int, err error)
}

// begin makes ready for a timer; again is what it read when it failed before.
func (r *timerReads) begin(n *node, again []HistoryRead) (err error) {
	*r = timerReads{node: n.index, made: r.made[:0], again: again}
	if r.past, err = pastReads(again); r.past == nil && err == nil {
		r.again = nil
	}
	return err
}

// attempt makes ready for an attempt.
func (r *timerReads) attempt() { r.made, r.loose, r.used = r.made[:0], false, 0 }

// before returns what the timer read when it failed before; false: it reads the history, which is noted.
func (r *timerReads) before(s *Scope, asked span) ([]*microstore.Entry, bool) {
	if s.at != r.node {
		return nil, false
	}
	for i := range r.past {
		p := &r.past[i]
		if p.Match == asked.match && p.from <= asked.from && asked.to <= p.to && p.History == asked.of.label() {
			return p.entries, true
		}
	}
	for i := range r.made {
		m := &r.made[i]
		if m.of == asked.of && m.match == asked.match && m.from <= asked.to && asked.from <= m.to {
			m.from, m.to = min(m.from, asked.from), max(m.to, asked.to)
			return nil, false
		}
	}
	if r.loose = r.loose || len(r.made) == readsMost; !r.loose {
		r.made = append(r.made, asked)
	}
	return nil, false
}

// changes is called before a step changes state.
func (s *Scope) changes() {
	if s.timer != nil && s.at == s.reads.node {
		s.reads.loose = true
	}
}

// onTimer calls the step that set the timer: once more, on what there is now, if it has read what it did before and
// changes state.
func (s *Scope) onTimer(n *node, start mark) error {
	for {
		s.at = n.index
		s.reads.attempt()
		err := unpanicked(func() error { return n.onTimer(s, *s.timer) })
		if !s.reads.loose || s.reads.past == nil {
			return err
		}
		s.restore(start)
		s.reads.past, s.reads.again = nil, nil
	}
}

// readsTold is what the timer that runs has read, for a fault of it.
func (s *Scope) readsTold() []HistoryRead {
	r := &s.reads
	if r.loose {
		return nil
	}
	room, bytes := readsBytes-r.used, 0
	told := slices.Clone(r.again)
	for i := range told {
		bytes += sizeOf(told[i].Events)
	}
	for _, m := range r.made {
		one, size, err := m.of.tell(s, m, room-bytes)
		if err != nil {
			r.err = err
			return nil
		}
		told, bytes = append(told, one), bytes+size
	}
	if bytes > room { // a part of it would have the timer decide on that
		cutReads(told)
		return told
	}
	r.used += bytes
	return told
}
