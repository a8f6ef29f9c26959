package framework

import (
	"fmt"
	"math"
	"time"

	"github.com/millrace/millrace/microstore"
)

// State is what a step keeps between events, by key: a History or a Table. It is declared in Step.States
// and lives in the store, in the slice of the task that runs the step.
type State interface {
	declare(n *node)
	// open makes the state's part of a task's slice.
	open(t *microstore.Task) (any, error)
	// shape is what must not change while there is state; describe is all, for people.
	shape() string
	describe() string
}

// HistoryConfig bounds a history and says how its events are encoded.
type HistoryConfig[T any] struct {
	// Retain is how long an event stays, by event time against the watermark. Default 0: no bound by time.
	Retain time.Duration
	// MaxCount and MaxBytes bound the history of one key; the newest stay. Default 0: no bound.
	MaxCount int
	MaxBytes int64
	// Codec encodes the events; default JSON.
	Codec Codec[T]
}

// History is the micro event store of a step: for each key its events, ordered by time, then id.
type History[T any] struct {
	name   string
	config HistoryConfig[T]
	json   bool
	node   *node
	slot   int
}

// NewHistory declares a history; the name is unique in its step.
func NewHistory[T any](name string, c HistoryConfig[T]) *History[T] {
	if c.Codec == nil {
		c.Codec = JSON[T]()
	}
	return &History[T]{name: name, config: c, json: isJSON(c.Codec)}
}

func (h *History[T]) declare(n *node) { h.node, h.slot = n, slotOf(n, h) }

func (h *History[T]) open(t *microstore.Task) (any, error) {
	return t.History(h.node.name+"."+h.name,
		microstore.HistoryConfig{MaxCount: h.config.MaxCount, MaxBytes: h.config.MaxBytes})
}

func (h *History[T]) retention() time.Duration { return h.config.Retain }

func (h *History[T]) shape() string { return "history of " + typeName[T]() }

func (h *History[T]) describe() string {
	text := h.shape()
	if h.config.Retain > 0 {
		text += fmt.Sprintf(", for %v", h.config.Retain.Truncate(time.Microsecond)) // the instant that windows have on top tells nobody anything
	}
	if h.config.MaxCount > 0 {
		text += fmt.Sprintf(", at most %d events of a key", h.config.MaxCount)
	}
	if h.config.MaxBytes > 0 {
		text += fmt.Sprintf(", at most %d bytes of a key", h.config.MaxBytes)
	}
	return text
}

func (h *History[T]) store(s *Scope) *microstore.History {
	return s.task.states[h.node.index][h.slot].(*microstore.History)
}

// floor is the time before which events are expired.
func (h *History[T]) floor(s *Scope) int64 {
	return before(s.watermark, h.config.Retain)
}

// before is t − d where d 0 means for ever, without overflow.
func before(t int64, d time.Duration) int64 {
	if d == 0 || t < math.MinInt64+int64(d) {
		return math.MinInt64
	}
	return t - int64(d)
}

// Expired tells whether an event of this time would have been forgotten already.
func (h *History[T]) Expired(s *Scope, t time.Time) bool { return t.UnixNano() < h.floor(s) }

// Append adds an event to the history of the current key and of match, a value that later reads ask for:
// "" for the whole history of the key. It is a no-op that returns false when an event with the same id is
// there: that is the duplicate check. An expired event gives microstore.ErrExpired. An event that is Deleted is an error: it
// has nothing to be kept.
func (h *History[T]) Append(s *Scope, e *Event[T], match string) (added bool, err error) {
	added, _, err = h.Push(s, e, match)
	return added, err
}

// Push is Append that also returns the events that the bounds of the history pushed out for this one, oldest first.
func (h *History[T]) Push(s *Scope, e *Event[T], match string) (added bool, out []*Event[T], err error) {
	if e.Deleted {
		return false, nil, Permanent(fmt.Errorf("the event has no data (Deleted), and history %q keeps events; filter such events out before", h.name))
	}
	kept := &keptEvent[T]{event: *e}
	id := kept.event.ID()
	kept.event.origin, kept.event.raw = nil, nil
	value, err := s.batch.Encode(func(dst []byte) ([]byte, error) { return h.encode(dst, e) })
	if err != nil {
		return false, nil, Permanent(fmt.Errorf("encode for history %q: %w", h.name, err))
	}
	s.changes()
	entry := &kept.entry
	*entry = microstore.Entry{Time: e.Time.UnixNano(), ID: id, Value: value, Data: &kept.event}
	added, pushed, err := h.store(s).Push(s.batch, s.key, match, entry, h.floor(s))
	entry.Value = nil
	for _, entry := range pushed {
		if err := h.decoded(s, entry); err != nil {
			return added, nil, err
		}
		out = append(out, entry.Data.(*Event[T]))
	}
	return added, out, err
}

// View reads the live events of the current key and match, oldest first, with what this batch appended. In Step.OnTimer
// of a timer that failed and was resubmitted, see there, it is the events that there were when it failed.
func (h *History[T]) View(s *Scope, match string) (View[T], error) {
	return h.read(s, span{h, match, math.MinInt64, math.MaxInt64})
}

// Between is View of the events from and to these times, both included. It decodes no others.
func (h *History[T]) Between(s *Scope, match string, from, to time.Time) (View[T], error) {
	return h.read(s, span{h, match, from.UnixNano(), to.UnixNano()})
}

func (h *History[T]) read(s *Scope, r span) (View[T], error) {
	if s.timer != nil {
		if entries, ok := s.reads.before(s, r); ok {
			return h.remembered(s, entries, r)
		}
	}
	return h.live(s, r)
}

// live reads what the history has.
func (h *History[T]) live(s *Scope, r span) (View[T], error) {
	v, err := h.store(s).View(s.key, r.match, max(h.floor(s), r.from))
	if err != nil {
		return View[T]{}, err
	}
	if r.to < math.MaxInt64 {
		v = v.Range(r.from, r.to)
	}
	return h.view(s, v)
}

// Get returns the event of the current key with this time and id.
func (h *History[T]) Get(s *Scope, match string, t time.Time, id string) (*Event[T], bool, error) {
	v, err := h.Between(s, match, t, t)
	if err != nil {
		return nil, false, err
	}
	for i := range v.Len() {
		if e := v.At(i); e.ID() == id {
			return e, true, nil
		}
	}
	return nil, false, nil
}

// Delete removes the event of the current key with this time and id; false when it is not there.
func (h *History[T]) Delete(s *Scope, match string, t time.Time, id string) (bool, error) {
	s.changes()
	return h.store(s).Delete(s.batch, s.key, match, t.UnixNano(), id)
}

// view decodes the entries that came from disk.
func (h *History[T]) view(s *Scope, v microstore.View) (View[T], error) {
	for i := range v.Len() {
		if err := h.decoded(s, v.At(i)); err != nil {
			return View[T]{}, err
		}
	}
	return View[T]{v}, nil
}

// keptEvent is an event in the cache. Its encoded form is in the commit only.
type keptEvent[T any] struct {
	entry microstore.Entry
	event Event[T]
}

// decoded decodes an entry; it stays decoded in the cache, and not encoded.
func (h *History[T]) decoded(s *Scope, entry *microstore.Entry) error {
	if entry.Data != nil {
		return nil
	}
	e, err := h.decode(s.key, entry)
	if err != nil {
		return Fatal(fmt.Errorf("history %q of key %q, event %q: %w", h.name, s.key, entry.ID, err))
	}
	entry.Data, entry.Value = e, nil
	return nil
}

func (h *History[T]) encode(dst []byte, e *Event[T]) ([]byte, error) {
	var r Record
	e.fill(&r)
	r.ID, r.Key, r.Time = "", "", time.Time{} // they are in the store's key
	if h.json && e.raw != nil {
		r.Value = e.raw.Value
		return AppendRecord(dst, &r), nil
	}
	return appendRecordWith(dst, &r, func(dst []byte) ([]byte, error) { return h.config.Codec.Append(dst, &e.Data) })
}

func (h *History[T]) decode(key string, entry *microstore.Entry) (*Event[T], error) {
	r, err := ReadRecord(entry.Value)
	if err != nil {
		return nil, err
	}
	r.Key, r.ID, r.Time = key, entry.ID, time.Unix(0, entry.Time).UTC()
	e := new(Event[T])
	e.fromRecord(&r, nil)
	if err := h.config.Codec.Decode(&r, &e.Data); err != nil {
		return nil, unreadable[T](err)
	}
	return e, nil
}

// unreadable says of what a step has kept and its codec cannot read what is to be done.
func unreadable[T any](err error) error {
	return fmt.Errorf("what was kept is no %s: %w; where that type, or its codec, was changed, change it back, "+
		"or give the step a new name, under which it begins without state", typeName[T](), err)
}

// View is a range of a history, oldest first. It is valid until the step returns.
type View[T any] struct{ v microstore.View }

// Len is the number of events in the view.
func (v View[T]) Len() int { return v.v.Len() }

// At returns the i-th event, the oldest first. It must not be changed.
func (v View[T]) At(i int) *Event[T] { return v.v.At(i).Data.(*Event[T]) }

// All yields the events, oldest first.
func (v View[T]) All(yield func(*Event[T]) bool) {
	for i := range v.Len() {
		if !yield(v.At(i)) {
			return
		}
	}
}

// Backward yields the events, newest first.
func (v View[T]) Backward(yield func(*Event[T]) bool) {
	for i := v.Len() - 1; i >= 0; i-- {
		if !yield(v.At(i)) {
			return
		}
	}
}

// Before returns the latest event before t.
func (v View[T]) Before(t time.Time) (*Event[T], bool) {
	entry, ok := v.v.Before(t.UnixNano())
	if !ok {
		return nil, false
	}
	return entry.Data.(*Event[T]), true
}

func slotOf(n *node, state State) int {
	for i, other := range n.states {
		if other == state {
			return i
		}
	}
	panic("framework: state of another step")
}
