package framework

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/microstore"
)

// HistoryRead is what a timer that failed had read of a history, for its key.
type HistoryRead struct {
	// History is the one that was read, "step.history".
	History string `json:"history"`
	// Match is the value that was asked for, From and To the times, both included. Zero: no bound.
	Match string    `json:"match,omitempty"`
	From  time.Time `json:"from,omitzero"`
	To    time.Time `json:"to,omitzero"`
	// Events is all that was found, oldest first, as the history's codec encodes it.
	Events []FaultEvent `json:"events,omitempty"`
	// Cut is how many events are missing here, all of them, because what the timer read is larger than 256 KiB or than the
	// dead-letter topic takes. Resubmitted it reads what its histories still have.
	Cut int `json:"cut,omitempty"`
}

func cutReads(reads []HistoryRead) (n int) {
	for i := range reads {
		n += len(reads[i].Events)
		reads[i].Cut, reads[i].Events = reads[i].Cut+len(reads[i].Events), nil
	}
	return n
}

// sizeOf is what events take as JSON.
func sizeOf(events []FaultEvent) int {
	b, err := json.Marshal(events)
	if err != nil || len(events) == 0 {
		return 0
	}
	return len(b)
}

// whole tells whether a timer can read again what the fault has.
func (f *Fault) whole() bool {
	return len(f.Read) > 0 && !slices.ContainsFunc(f.Read, func(r HistoryRead) bool { return r.Cut > 0 })
}

// newer returns of two faults of one event or timer the one to run: that which has been sent again more often, else the
// second. What a timer read is taken from the other where it has not got it.
func newer(a, b *Fault) *Fault {
	if b.Resubmitted < a.Resubmitted {
		a, b = b, a
	}
	if b.whole() || !a.whole() {
		return b
	}
	both := *b
	both.Read = a.Read
	return &both
}

// pastRead is a range of a history as it was.
type pastRead struct {
	*HistoryRead
	from, to int64
	entries  []*microstore.Entry
}

// pastReads makes of what a fault has what can be read; nothing, where it is not whole.
func pastReads(reads []HistoryRead) (past []pastRead, err error) {
	for i := range reads {
		p := pastRead{HistoryRead: &reads[i], from: bound(reads[i].From, math.MinInt64), to: bound(reads[i].To, math.MaxInt64)}
		if p.Cut > 0 {
			return nil, nil
		}
		for i := range p.Events {
			e := &p.Events[i]
			r, err := e.Record()
			if err == nil && e.Time == nil {
				err = errors.New("it has no time")
			}
			if err != nil {
				return nil, Permanent(fmt.Errorf("what the timer read of %q, event %q: %w", p.History, e.ID, err))
			}
			p.entries = append(p.entries, &microstore.Entry{Time: r.Time.UnixNano(), ID: r.ID, Value: AppendRecord(nil, &r)})
		}
		slices.SortFunc(p.entries, func(a, b *microstore.Entry) int {
			return cmp.Or(cmp.Compare(a.Time, b.Time), strings.Compare(a.ID, b.ID))
		})
		past = append(past, p)
	}
	return past, nil
}

func bound(t time.Time, none int64) int64 {
	if t.IsZero() {
		return none
	}
	return t.UnixNano()
}

// boundTime is the time of a bound that is one.
func boundTime(at int64) time.Time {
	if at == math.MinInt64 || at == math.MaxInt64 {
		return time.Time{}
	}
	return time.Unix(0, at).UTC()
}

func (h *History[T]) label() string { return h.node.name + "." + h.name }

// remembered is a view of what a timer read when it failed.
func (h *History[T]) remembered(s *Scope, entries []*microstore.Entry, r span) (View[T], error) {
	for _, entry := range entries {
		if entry.Data != nil {
			continue
		}
		e, err := h.decode(s.key, entry)
		if err != nil {
			return View[T]{}, Permanent(fmt.Errorf("what the timer read of %q, event %q: %w", h.label(), entry.ID, err))
		}
		entry.Data = e
	}
	return View[T]{microstore.ViewOf(entries).Range(r.from, r.to)}, nil
}

func (h *History[T]) tell(s *Scope, r span, room int) (told HistoryRead, bytes int, err error) {
	v, err := h.live(s, r)
	if err != nil {
		return told, 0, err
	}
	told = HistoryRead{History: h.label(), Match: r.match, From: boundTime(r.from), To: boundTime(r.to)}
	for e := range v.All {
		one, err := h.tellEvent(e)
		if bytes += sizeOf([]FaultEvent{one}); err != nil || bytes > room {
			told.Events, told.Cut = nil, v.Len()
			return told, max(bytes, room+1), nil
		}
		told.Events = append(told.Events, one)
	}
	return told, bytes, nil
}

func (h *History[T]) tellEvent(e *Event[T]) (f FaultEvent, err error) {
	b, err := h.encode(nil, e)
	if err != nil {
		return f, err
	}
	r, err := ReadRecord(b)
	if err != nil {
		return f, err
	}
	f = FaultEvent{ID: e.ID(), Type: r.Type, Source: r.Source, Time: &e.Time, Metadata: r.Metadata, Causes: r.Causes, Step: r.Step}
	f.setBytes(r.Value)
	return f, nil
}
