package processors

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
)

// Match says which events of one key are partners by their data: those for which both functions return the
// same value. Made with On, or SameKey itself.
type Match[L, R any] func() (left func(L) string, right func(R) string)

// On makes partners of events of one key by a value of each: On(Order.ID, Payment.OrderID). An event whose
// value is empty is a fault.
func On[L, R any](left func(L) string, right func(R) string) Match[L, R] {
	return func() (func(L) string, func(R) string) { return left, right }
}

// SameKey makes partners of all events of one key. It is given to a join as it is, without a call.
func SameKey[L, R any]() (left func(L) string, right func(R) string) { return nil, nil }

// Join makes one event of each pair of partners: events of the same key whose values match and whose times are
// within the window. Both streams must be of one stage; where they have other keys, re-key them first.
//
//	paid := processors.Join(orders, payments, "paid", processors.On(Order.ID, Payment.OrderID),
//		processors.Window{Within: 2 * time.Hour, AllowedLateness: 10 * time.Minute}, Confirm)
//
// Each pair is made once, whichever of the two comes first. Its time is the later of the two, its id follows
// from theirs. An event whose own window has closed, with the allowed lateness, goes to the dead letters as
// late. When combine or a step after the join fails, the event that completed the pair becomes a fault
// and leaves no trace in the join: once it is resubmitted, all its pairs are made.
//
// Each event is written once, and stays as long as its window is open. Finding partners reads those that
// match, no others.
func Join[L, R, O any](left *framework.Stream[L], right *framework.Stream[R], name string, on Match[L, R], window Window,
	combine func(*framework.Event[L], *framework.Event[R]) (O, error)) *framework.Stream[O] {
	return addJoin(left, right, "join", name, on, window, false, false, combine)
}

// LeftJoin is a Join that also passes on the left events that found no partner: combine gets a nil right for
// them, once, when their window closes. Such an event has the time of the left one.
func LeftJoin[L, R, O any](left *framework.Stream[L], right *framework.Stream[R], name string, on Match[L, R], window Window,
	combine func(*framework.Event[L], *framework.Event[R]) (O, error)) *framework.Stream[O] {
	return addJoin(left, right, "left join", name, on, window, true, false, combine)
}

// OuterJoin is a Join that also passes on the events of both sides that found no partner: combine gets nil for
// what is missing. See LeftJoin.
func OuterJoin[L, R, O any](left *framework.Stream[L], right *framework.Stream[R], name string, on Match[L, R], window Window,
	combine func(*framework.Event[L], *framework.Event[R]) (O, error)) *framework.Stream[O] {
	return addJoin(left, right, "outer join", name, on, window, true, true, combine)
}

// side is one of the two streams of a join.
//
// An event of the side is open until the watermark passes its time + open: the far edge of its window, and the
// lateness that partners there are allowed. The rule of the join is that two partners make a pair if
// both are open when the second of them arrives. When no event is later than allowed this makes every pair of
// the window, as the second of a pair (l, r) comes when the watermark is at most its own time + lateness,
// and the first is open for at least as long. When one is later, it still is consistent: an event that is
// closed has been reported as alone or has found a partner, and nothing that comes makes that untrue.
//
// An event without an open partner at its arrival, whose side reports those, sets a timer for the moment it
// closes. Its first partner takes the timer back. So the timer fires if and only if no pair was made, and
// firing is what the store does once, however often the process stops; nothing has to be kept that tells
// matched events from others, and partners need not be kept for longer than they are open.
//
// A bound by count or bytes closes events early: one that is pushed out is as closed as one whose time is over. Its
// timer, if it is still set, is taken back and what it would have done is done at once.
type side[T any] struct {
	letter  string // tells the timers of the sides apart
	history *framework.History[T]
	by      func(T) string
	before  time.Duration // partners are at most so much earlier
	after   time.Duration // and so much later
	open    time.Duration
	// alone passes on an event without partner; nil where those are not passed on.
	alone func(s *framework.Scope, e *framework.Event[T]) error
}

func newSide[T any](letter string, by func(T) string, before, after, lateness time.Duration, w Window) *side[T] {
	d := &side[T]{letter: letter, by: by, before: before, after: after, open: after + lateness}
	// One instant more than open: when the timer of an event fires, the event is closed but still there.
	d.history = framework.NewHistory(letter, framework.HistoryConfig[T]{
		Retain: d.open + instant, MaxCount: w.maxCount(), MaxBytes: w.MaxBytes})
	return d
}

func (d *side[T]) closes(t time.Time) time.Time { return t.Add(d.open + instant) }

// partners returns the open events of the side with a time from..to.
func (d *side[T]) partners(s *framework.Scope, match string, from, to time.Time) (framework.View[T], error) {
	if w := s.Watermark(); !w.IsZero() {
		if opened := w.Add(-d.open); from.Before(opened) {
			from = opened
		}
	}
	return d.history.Between(s, match, from, to)
}

// timer is the id of the timer of an event. Ids of the two sides may be the same.
func (d *side[T]) timer(e *framework.Event[T]) string { return d.letter + e.ID() }

// arrive takes an event of mine and calls pair for each partner among other's. The append comes before
// the look, so that a view is of the final state; and partners are copied, because what pair does may end
// the view.
func arrive[T, U any](s *framework.Scope, st *framework.Step, mine *side[T], other *side[U], e *framework.Event[T],
	pair func(partner *framework.Event[U]) error) error {
	if err := framework.NeedKey(&e.Header); err != nil {
		return err
	}
	match, err := matchOf(mine.by, e)
	if err != nil {
		return err
	}
	if s.Passed(e.Time.Add(mine.open)) {
		late(s, st, &e.Header, e.Time.Add(mine.open))
		return nil
	}
	added, pushed, err := mine.history.Push(s, e, match)
	full := errors.Is(err, microstore.ErrExpired) // it is older than all that there is room for: it meets who is there
	switch {
	case full:
		s.Overflowed(st)
	case err != nil:
		return err
	case !added:
		s.Dropped(st)
		return nil
	}
	for _, old := range pushed {
		if err := mine.close(s, st, old); err != nil {
			return err
		}
	}
	view, err := other.partners(s, match, e.Time.Add(-mine.before), e.Time.Add(mine.after))
	if err != nil {
		return err
	}
	if view.Len() == 0 {
		switch {
		case mine.alone == nil:
			return nil
		case full:
			return mine.alone(s, e)
		}
		return s.SetTimer(st, mine.closes(e.Time), mine.timer(e), []byte(match))
	}
	var few [8]*framework.Event[U]
	partners := few[:0]
	for partner := range view.All {
		partners = append(partners, partner)
	}
	for _, partner := range partners {
		if err := met(s, st, other, partner, match, mine); err != nil {
			return err
		}
		if err := pair(partner); err != nil {
			return err
		}
	}
	return nil
}

// met takes back the timer of an event that has just met a partner, unless it has met another before. Another
// partner that is open now was open when the later of the two came, so it has: no delete is written for it.
// Taking back a timer that was never set does nothing.
func met[T, U any](s *framework.Scope, st *framework.Step, mine *side[T], e *framework.Event[T], match string, other *side[U]) error {
	if mine.alone == nil {
		return nil
	}
	partners, err := other.partners(s, match, e.Time.Add(-mine.before), e.Time.Add(mine.after))
	if err != nil || partners.Len() > 1 {
		return err
	}
	return s.DeleteTimer(st, mine.closes(e.Time), mine.timer(e))
}

// close takes an event that a bound has pushed out: one that still waits for its first partner is alone.
func (d *side[T]) close(s *framework.Scope, st *framework.Step, e *framework.Event[T]) error {
	s.Overflowed(st)
	if d.alone == nil {
		return nil
	}
	waits, err := s.HasTimer(st, d.closes(e.Time), d.timer(e))
	if !waits || err != nil {
		return err
	}
	if err := s.DeleteTimer(st, d.closes(e.Time), d.timer(e)); err != nil {
		return err
	}
	return d.alone(s, e)
}

// expire takes the timer of an event of the side that has found no partner.
func (d *side[T]) expire(s *framework.Scope, st *framework.Step, t framework.Timer) error {
	at, id := t.At.Add(-d.open-instant), strings.TrimPrefix(t.ID, d.letter)
	e, ok, err := d.history.Get(s, string(t.Payload), at, id)
	if err != nil {
		return err
	}
	if !ok {
		gone(s, st, fmt.Sprintf("event %q of %s, which found no partner,", id, at.Format(time.RFC3339Nano)))
		return nil
	}
	return d.alone(s, e)
}

// What is made of causes with the same ids is told apart by an index. Ids are unique in a stream, not among the
// two of a join: left 1 with right 2 is another pair than left 2 with right 1, and left 1 with right 1 is
// not left 1 alone.
const (
	indexPair = iota
	indexPairCrossed
	indexLeftAlone
	indexRightAlone
)

func pairIndex(left, right *framework.Header) int {
	if left.ID() <= right.ID() {
		return indexPair
	}
	return indexPairCrossed
}

func addJoin[L, R, O any](left *framework.Stream[L], right *framework.Stream[R], kind, name string, on Match[L, R], w Window,
	reportLeft, reportRight bool, combine func(*framework.Event[L], *framework.Event[R]) (O, error)) *framework.Stream[O] {
	invalid(left.Pipeline(), kind, name, w.validate())
	need(left.Pipeline(), kind, name, "combine", combine != nil)
	need(left.Pipeline(), kind, name, "on", on != nil)
	if on == nil {
		on = SameKey[L, R] // the pipeline does not run; it only has to be built to the end
	}
	byLeft, byRight := on()
	need(left.Pipeline(), kind, name, "one of the functions of On", (byLeft == nil) == (byRight == nil))
	before, after := w.span()
	lateness := w.AllowedLateness + max(left.Behind(), right.Behind())
	l := newSide("left", byLeft, before, after, lateness, w)
	r := newSide("right", byRight, after, before, lateness, w)
	step := framework.Step{
		Name: name, Kind: kind, Detail: w.String(),
		// What is emitted is at most as old as an event that has just closed.
		Hold:   max(before, after) + w.AllowedLateness + instant,
		States: []framework.State{l.history, r.history},
	}
	return framework.AddStep2(left, right, step, func(st *framework.Step, next framework.Next[O]) (framework.Next[L], framework.Next[R]) {
		emit := func(s *framework.Scope, el *framework.Event[L], er *framework.Event[R]) error {
			data, err := combine(el, er)
			if err != nil {
				return err
			}
			switch {
			case er == nil:
				return next(s, framework.Derive(s, st, indexLeftAlone, el.Time, data, &el.Header))
			case el == nil:
				return next(s, framework.Derive(s, st, indexRightAlone, er.Time, data, &er.Header))
			}
			t := el.Time
			if er.Time.After(t) {
				t = er.Time
			}
			return next(s, framework.Derive(s, st, pairIndex(&el.Header, &er.Header), t, data, &el.Header, &er.Header))
		}
		if reportLeft {
			l.alone = func(s *framework.Scope, e *framework.Event[L]) error { return emit(s, e, nil) }
		}
		if reportRight {
			r.alone = func(s *framework.Scope, e *framework.Event[R]) error { return emit(s, nil, e) }
		}
		st.OnTimer = func(s *framework.Scope, t framework.Timer) error {
			if strings.HasPrefix(t.ID, l.letter) {
				return l.expire(s, st, t)
			}
			return r.expire(s, st, t)
		}
		return func(s *framework.Scope, e *framework.Event[L]) error {
				return arrive(s, st, l, r, e, func(partner *framework.Event[R]) error { return emit(s, e, partner) })
			}, func(s *framework.Scope, e *framework.Event[R]) error {
				return arrive(s, st, r, l, e, func(partner *framework.Event[L]) error { return emit(s, partner, e) })
			}
	})
}
