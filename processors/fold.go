package processors

import "github.com/millrace/millrace/framework"

// Fold keeps one value for each key, begins with first, and makes the next of the last and each event. It emits
// the new value for each event, with the event's time, metadata and an id that follows from the event's.
//
// f must not change what the value refers to (the elements of a slice or a map in it): the store has it, and
// goes back to it when a later step fails. Make a copy.
//
// Events are folded in the order in which they come, each time they come. Where the source may repeat one, put
// Distinct before. There is a value for each key that was ever seen, with no bound.
//
// It costs a read from memory and a write for each event; of several in one commit, one write.
func Fold[T, S any](in *framework.Stream[T], name string, first S, f func(S, *framework.Event[T]) (S, error)) *framework.Stream[S] {
	need(in.Pipeline(), "fold", name, "f", f != nil)
	return FoldSome(in, name, first, func(last S, e *framework.Event[T]) (S, bool, error) {
		next, err := f(last, e)
		return next, true, err
	})
}

// FoldSome is Fold where f also says whether the new value is emitted: only changes, only every hundredth.
// The value is kept either way.
func FoldSome[T, S any](in *framework.Stream[T], name string, first S,
	f func(last S, e *framework.Event[T]) (next S, emit bool, err error)) *framework.Stream[S] {
	need(in.Pipeline(), "fold", name, "f", f != nil)
	values := framework.NewTable[S]("value", nil)
	step := framework.Step{Name: name, Kind: "fold", States: []framework.State{values}}
	return framework.AddStep(in, step, func(st *framework.Step, next framework.Next[S]) framework.Next[T] {
		return func(s *framework.Scope, e *framework.Event[T]) error {
			if err := framework.NeedKey(&e.Header); err != nil {
				return err
			}
			last, ok, err := values.Get(s)
			if err != nil {
				return err
			}
			if !ok {
				last = first
			}
			value, emit, err := f(last, e)
			if err != nil {
				return err
			}
			if err := values.Set(s, value); err != nil {
				return err
			}
			if !emit {
				return nil
			}
			return next(s, framework.Transform(st, e, value))
		}
	})
}
