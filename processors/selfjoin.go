package processors

import (
	"errors"
	"time"

	"github.com/millrace/millrace/framework"
)

// SelfJoin makes one event of each unordered pair of events of one stream that have the same key, a time within
// the window of each other and, where by is not nil, the same value: each pair once, none with itself.
// The earlier of the two by time, then id, comes first. combine returns false for a pair that is nothing.
//
// The window is Window.Within; a stream's pairs have no left and right that Before and After could tell
// apart. Times, ids, late events and faults are as in Join, and so is the cost, with one history.
func SelfJoin[T, O any](in *framework.Stream[T], name string, by func(T) string, window Window,
	combine func(earlier, later *framework.Event[T]) (O, bool, error)) *framework.Stream[O] {
	err := window.validate()
	if window.Before != 0 || window.After != 0 {
		err = errors.Join(err, errors.New("a self-join has no left and right; give Within"))
	}
	invalid(in.Pipeline(), "self-join", name, err)
	need(in.Pipeline(), "self-join", name, "combine", combine != nil)
	all := newSide("events", by, window.Within, window.Within, window.AllowedLateness+in.Behind(), window)
	step := framework.Step{
		Name: name, Kind: "self-join", Detail: window.String(), Hold: window.Within + window.AllowedLateness,
		States: []framework.State{all.history},
	}
	return framework.AddStep(in, step, func(st *framework.Step, next framework.Next[O]) framework.Next[T] {
		return func(s *framework.Scope, e *framework.Event[T]) error {
			return arrive(s, st, all, all, e, func(partner *framework.Event[T]) error {
				if partner.ID() == e.ID() {
					return nil
				}
				earlier, later := inOrder(partner, e)
				data, ok, err := combine(earlier, later)
				if err != nil || !ok {
					return err
				}
				return next(s, framework.Derive(s, st, indexPair, later.Time, data, &earlier.Header, &later.Header))
			})
		}
	})
}

// inOrder sorts two events by time, then id, as histories do.
func inOrder[T any](a, b *framework.Event[T]) (earlier, later *framework.Event[T]) {
	if c := compareTimes(a.Time, b.Time); c < 0 || c == 0 && a.ID() < b.ID() {
		return a, b
	}
	return b, a
}

// compareTimes compares times by what a store keeps of them.
func compareTimes(a, b time.Time) int {
	switch x, y := a.UnixNano(), b.UnixNano(); {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}
