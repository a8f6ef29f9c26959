package processors

import "github.com/millrace/millrace/framework"

// JoinLatest joins each event of left with the newest value of right for its key: a stream with a table, such as payments with
// the limits of their accounts, of which another service tells. Both streams must be of one stage; where they have other keys,
// re-key them first.
//
//	checked := processors.JoinLatest(payments, accounts, "limits",
//		func(a Account) (int64, bool) { return a.Limit, !a.Closed },
//		func(p *framework.Event[Payment], limit int64, found bool) (Checked, error) { ... })
//
// value makes of an event of right what is kept for its key, or returns false for nothing: then the key has no value any more.
// Nor has it one after a record without a value, by which a compacted topic deletes its key; where something else takes the
// events of right's source too, or stands between, that takes framework.TombstonesPass.
// combine gets the value and whether there is one. The result has key, time, type and metadata of the left event, and an id
// that follows from its id. Neither function may change what it gets.
//
// The newest value is the one that came last, and an event of left gets the one that is there when it is processed. The sources of
// a stage are read side by side by their times, as far as they are there; what comes later changes nothing that was emitted.
// So it is Fold's exception: another order gives other results. Where the time of a value decides, use Join with Window.Before.
// A right source that is quiet holds event time back until Config.IdleAfter, as any source.
//
// Where processes share the partitions, one that takes a partition over reads right again: compact its topic, or keep all of it,
// or set framework.Pipeline.Changelog. The start warns of topics that keep less.
//
// Each event of right costs a write, each of left a read. There is a value for each key that has one, with no bound.
func JoinLatest[L, R, V, O any](left *framework.Stream[L], right *framework.Stream[R], name string, value func(R) (V, bool),
	combine func(e *framework.Event[L], latest V, found bool) (O, error)) *framework.Stream[O] {
	need(left.Pipeline(), "join latest", name, "value", value != nil)
	need(left.Pipeline(), "join latest", name, "combine", combine != nil)
	values := framework.NewTable[V]("value", nil)
	step := framework.Step{Name: name, Kind: "join latest", States: []framework.State{values}, LatestOfRight: true}
	return framework.AddStep2(left, right, step, func(st *framework.Step, next framework.Next[O]) (framework.Next[L], framework.Next[R]) {
		return func(s *framework.Scope, e *framework.Event[L]) error {
				if err := framework.NeedKey(&e.Header); err != nil {
					return err
				}
				latest, found, err := values.Get(s)
				if err != nil {
					return err
				}
				data, err := combine(e, latest, found)
				if err != nil {
					return err
				}
				return next(s, framework.Transform(st, e, data))
			}, func(s *framework.Scope, e *framework.Event[R]) error {
				if err := framework.NeedKey(&e.Header); err != nil {
					return err
				}
				if e.Deleted {
					return values.Delete(s)
				}
				v, keep := value(e.Data)
				if !keep {
					return values.Delete(s)
				}
				return values.Set(s, v)
			}
	})
}
