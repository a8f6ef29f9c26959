package processors

import (
	"context"
	"fmt"

	"github.com/millrace/millrace/framework"
)

// Lookup finds a value by its key. Its method is called from several goroutines at once. It returns
// false for a key that has no value; an error says that it could not be found out. Time-outs, broken
// connections and what is marked with framework.Transient are tried again by the engine, other errors
// make a fault of the event.
type Lookup[K comparable, V any] interface {
	Lookup(ctx context.Context, key K) (V, bool, error)
}

// LookupFunc makes a Lookup of a function.
func LookupFunc[K comparable, V any](f func(context.Context, K) (V, bool, error)) Lookup[K, V] {
	return lookupFunc[K, V](f)
}

type lookupFunc[K comparable, V any] func(context.Context, K) (V, bool, error)

func (f lookupFunc[K, V]) Lookup(ctx context.Context, key K) (V, bool, error) { return f(ctx, key) }

// Table looks up values in a map, which must not be changed any more.
func Table[K comparable, V any](values map[K]V) Lookup[K, V] { return table[K, V](values) }

type table[K comparable, V any] map[K]V

func (t table[K, V]) Lookup(_ context.Context, key K) (V, bool, error) {
	v, ok := t[key]
	return v, ok, nil
}

// Missing says what becomes of an event for which a lookup has no value.
type Missing int

const (
	// MissingFault makes a fault of the event. The default.
	MissingFault Missing = iota
	// MissingDrop leaves the event out.
	MissingDrop
)

// EnrichConfig is for what is unusual about an Enrich.
type EnrichConfig struct {
	// Missing says what becomes of an event whose key has no value; default MissingFault. To pass such an
	// event on, use EnrichMaybe.
	Missing Missing
}

// Enrich joins each event with a value from outside: key says which, with makes the new data of the two. The
// lookup runs in the lane of the event's key, so the events of that key wait for it and others do not; Guard
// bounds how long, and Cached how often.
//
// A lookup answers for now, not for the event's time: an input that is replayed is enriched with what holds
// at the replay. Where that matters, join with a stream of the values instead. An event that is Deleted is passed on as a
// deletion, and nothing is looked up.
func Enrich[A, B any, K comparable, V any](in *framework.Stream[A], name string, lookup Lookup[K, V],
	key func(A) K, with func(A, V) B, config ...EnrichConfig) *framework.Stream[B] {
	var c EnrichConfig
	if len(config) > 0 {
		c = config[0]
	}
	need(in.Pipeline(), "enrich", name, "with", with != nil)
	return addEnrich(in, name, lookup, key, func(s *framework.Scope, a A, k K, v V, found bool) (b B, pass bool, err error) {
		switch {
		case found:
			return with(a, v), true, nil
		case c.Missing == MissingDrop:
			return b, false, nil
		}
		return b, false, framework.Permanent(fmt.Errorf("look up %v: no such key", k))
	})
}

// EnrichMaybe is Enrich for values that may be missing: with hears whether there is one, and gets a zero
// value where there is none.
func EnrichMaybe[A, B any, K comparable, V any](in *framework.Stream[A], name string, lookup Lookup[K, V],
	key func(A) K, with func(a A, v V, found bool) B) *framework.Stream[B] {
	need(in.Pipeline(), "enrich", name, "with", with != nil)
	return addEnrich(in, name, lookup, key, func(_ *framework.Scope, a A, _ K, v V, found bool) (B, bool, error) {
		return with(a, v, found), true, nil
	})
}

func addEnrich[A, B any, K comparable, V any](in *framework.Stream[A], name string, lookup Lookup[K, V],
	key func(A) K, with func(*framework.Scope, A, K, V, bool) (B, bool, error)) *framework.Stream[B] {
	need(in.Pipeline(), "enrich", name, "the lookup", lookup != nil)
	need(in.Pipeline(), "enrich", name, "key", key != nil)
	step := framework.Step{Name: name, Kind: "enrich"}
	return framework.AddStep(in, step, func(st *framework.Step, next framework.Next[B]) framework.Next[A] {
		return func(s *framework.Scope, e *framework.Event[A]) error {
			if e.Deleted {
				return next(s, deletion[A, B](st, e))
			}
			k := key(e.Data)
			v, found, err := lookup.Lookup(s.Context(), k)
			if err != nil {
				return fmt.Errorf("look up %v: %w", k, err)
			}
			if !found {
				var zero V
				v = zero
			}
			data, pass, err := with(s, e.Data, k, v, found)
			if err != nil || !pass {
				return err
			}
			return next(s, framework.Transform(st, e, data))
		}
	})
}
