package processors

import (
	"strings"

	"github.com/millrace/millrace/framework"
)

// Filter passes on the events that keep returns true for; the others end here. An event that passes is the
// same event with the same id. It costs the call of keep.
func Filter[T any](in *framework.Stream[T], name string, keep func(*framework.Event[T]) bool) *framework.Stream[T] {
	need(in.Pipeline(), "filter", name, "keep", keep != nil)
	step := framework.Step{Name: name, Kind: "filter"}
	return framework.AddStep(in, step, func(_ *framework.Step, next framework.Next[T]) framework.Next[T] {
		return func(s *framework.Scope, e *framework.Event[T]) error {
			if !keep(e) {
				return nil
			}
			return next(s, e)
		}
	})
}

// Peek calls look with each event and passes the event on: to log, to count. When an event is tried again,
// after a transient error of a later step or a restart, look is called again.
func Peek[T any](in *framework.Stream[T], name string, look func(*framework.Event[T])) *framework.Stream[T] {
	need(in.Pipeline(), "peek", name, "look", look != nil)
	step := framework.Step{Name: name, Kind: "peek"}
	return framework.AddStep(in, step, func(_ *framework.Step, next framework.Next[T]) framework.Next[T] {
		return func(s *framework.Scope, e *framework.Event[T]) error {
			look(e)
			return next(s, e)
		}
	})
}

// Selector tells whether an event is wanted by its attributes alone, whatever its payload.
type Selector func(*framework.Header) bool

// Select is Filter by the attributes of an event, such as its type.
func Select[T any](in *framework.Stream[T], name string, wanted Selector) *framework.Stream[T] {
	need(in.Pipeline(), "filter", name, "wanted", wanted != nil)
	return Filter(in, name, func(e *framework.Event[T]) bool { return wanted(&e.Header) })
}

// Type selects events of one of these types.
func Type(types ...string) Selector {
	wanted := make(map[string]bool, len(types))
	for _, t := range types {
		wanted[t] = true
	}
	return func(h *framework.Header) bool { return wanted[h.Type] }
}

// TypeLike selects events whose type matches a pattern, in which each * stands for any text, also none:
// "order.*", "*.created".
func TypeLike(pattern string) Selector {
	parts := strings.Split(pattern, "*")
	return func(h *framework.Header) bool { return like(h.Type, parts) }
}

// like matches s against the texts between the stars of a pattern.
func like(s string, parts []string) bool {
	first, rest := parts[0], parts[1:]
	if len(rest) == 0 {
		return s == first
	}
	s, ok := strings.CutPrefix(s, first)
	if !ok {
		return false
	}
	last := rest[len(rest)-1]
	for _, part := range rest[:len(rest)-1] {
		at := strings.Index(s, part) // the leftmost leaves most to the rest
		if at < 0 {
			return false
		}
		s = s[at+len(part):]
	}
	return strings.HasSuffix(s, last)
}

// AllOf selects what all of the selectors select.
func AllOf(all ...Selector) Selector {
	return func(h *framework.Header) bool {
		for _, wanted := range all {
			if !wanted(h) {
				return false
			}
		}
		return true
	}
}

// AnyOf selects what one of the selectors selects.
func AnyOf(any ...Selector) Selector {
	return func(h *framework.Header) bool {
		for _, wanted := range any {
			if wanted(h) {
				return true
			}
		}
		return false
	}
}
