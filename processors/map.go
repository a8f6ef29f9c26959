package processors

import "github.com/millrace/millrace/framework"

// Map makes another event of each: the same key, time, type and metadata, other data and another id. f must
// not change the event that it gets. An error makes a fault of the event, or tries it again where it is
// transient. Of an event that is Deleted it makes one that is, and f is not called.
func Map[A, B any](in *framework.Stream[A], name string, f func(*framework.Event[A]) (B, error)) *framework.Stream[B] {
	need(in.Pipeline(), "map", name, "f", f != nil)
	step := framework.Step{Name: name, Kind: "map"}
	return framework.AddStep(in, step, func(st *framework.Step, next framework.Next[B]) framework.Next[A] {
		return func(s *framework.Scope, e *framework.Event[A]) error {
			if e.Deleted {
				return next(s, deletion[A, B](st, e))
			}
			data, err := f(e)
			if err != nil {
				return err
			}
			return next(s, framework.Transform(st, e, data))
		}
	})
}

// deletion is what a step makes of an event that is Deleted where it makes one of one.
func deletion[A, B any](st *framework.Step, e *framework.Event[A]) *framework.Event[B] {
	out := framework.Transform(st, e, *new(B))
	out.Deleted = true
	return out
}

// MapData is Map for a function of the data that cannot fail.
func MapData[A, B any](in *framework.Stream[A], name string, f func(A) B) *framework.Stream[B] {
	need(in.Pipeline(), "map", name, "f", f != nil)
	return Map(in, name, func(e *framework.Event[A]) (B, error) { return f(e.Data), nil })
}

// Split makes several events of one, in order: each has the key, time and metadata of the whole, no type of
// its own, and an id that follows from that of the whole and its place. What the steps after it do to one
// part is apart from the others: a part that fails becomes a fault that names it, and the others go on. An
// error of f itself is one of the whole event. Of one that is Deleted, which f may look at, it makes parts with data.
func Split[A, B any](in *framework.Stream[A], name string, f func(*framework.Event[A]) ([]B, error)) *framework.Stream[B] {
	need(in.Pipeline(), "split", name, "f", f != nil)
	step := framework.Step{Name: name, Kind: "split"}
	return framework.AddStep(in, step, func(st *framework.Step, next framework.Next[B]) framework.Next[A] {
		return func(s *framework.Scope, e *framework.Event[A]) error {
			parts, err := f(e)
			if err != nil {
				return err
			}
			for i, data := range parts {
				part := framework.Part(st, e, i, data)
				if err := s.RunPart(&part.Header, func() error { return next(s, part) }); err != nil {
					return err
				}
			}
			return nil
		}
	})
}
