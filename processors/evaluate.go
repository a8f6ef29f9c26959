package processors

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/framework"
)

// Emission is an event that an evaluation decides to emit.
type Emission[B any] struct {
	Data B
	// Triggers are the events of the history that it is emitted because of. Its id follows from the step, the
	// key and their ids, so it is the same in whatever order they came, and it is emitted once. Default: the
	// event that was just stored.
	Triggers []*framework.Header
	// Time of the event; default: that of the latest trigger. Where it is earlier than the event that was just
	// stored, the event may be late for the windows of later steps, unless AllowedLateness covers it.
	Time time.Time
	// Type is the CloudEvents type; default: the sink's.
	Type string
}

// Emit is the result of an evaluation that emits one event, triggered by the one that was just stored.
func Emit[B any](data B) []Emission[B] { return []Emission[B]{{Data: data}} }

// EmitFor is the result of an evaluation that emits one event, triggered by the given ones.
func EmitFor[B, T any](data B, triggers ...*framework.Event[T]) []Emission[B] {
	return []Emission[B]{{Data: data, Triggers: Triggers(triggers...)}}
}

// Triggers names events as the triggers of an Emission.
func Triggers[T any](events ...*framework.Event[T]) []*framework.Header {
	all := make([]*framework.Header, len(events))
	for i, e := range events {
		all[i] = &e.Header
	}
	return all
}

// Evaluate calls f with the history of the key each time an event has been stored in it, and emits what it
// decides: nothing, one event or several. The history has that event too, and is in the order of time. "A, B
// and C are all here" is decided when the last of them comes, whichever that is:
//
//	complete := processors.Evaluate(parts, "complete",
//		func(h framework.View[Part], _ *framework.Event[Part]) ([]processors.Emission[Kit], error) {
//			...
//			return processors.EmitFor(Kit{...}, a, b, c), nil
//		})
//
// An emission with the same triggers as an earlier one is not emitted again: that it was made is kept, in
// the same commit, for as long as its triggers are. Several emissions of one evaluation with the same triggers
// are told apart by their order. f decides by the history and the event alone. An error makes a fault of
// the event, which is then not in the history either, so that it can be resubmitted.
//
// Each emission with explicit triggers costs one more write; an evaluation costs what f reads.
func Evaluate[T, B any](c *Collected[T], name string,
	f func(h framework.View[T], e *framework.Event[T]) ([]Emission[B], error)) *framework.Stream[B] {
	need(c.Stream.Pipeline(), "evaluate", name, "f", f != nil)
	v := &evaluation[T, B]{collected: c, f: f}
	v.marks = framework.NewHistory("emitted", framework.HistoryConfig[struct{}]{Retain: c.retain, Codec: nothing{}})
	step := framework.Step{
		Name: name, Kind: "evaluate", Hold: c.config.AllowedLateness, States: []framework.State{v.marks},
	}
	return framework.AddStep(c.Stream, step, func(st *framework.Step, next framework.Next[B]) framework.Next[T] {
		v.step, v.next = st, next
		return v.run
	})
}

// evaluation remembers which emissions were made, by id, in a history of its own. A mark has the time of the
// earliest trigger, and the retention of the events: so it is there for exactly as long as all triggers are,
// and an emission cannot be made again when it is gone.
//
// It may seem that an emission with the new event among its triggers needs no mark, as it cannot have been
// made before. That is so, but it can be made again: the next event, which has nothing to do with it, may find
// A, B and C still there. Only an emission with no triggers of its own needs none. Its id is in a space of
// ids apart, so that no other evaluation can name it, and its event is evaluated once, because a history takes
// it once.
type evaluation[T, B any] struct {
	collected *Collected[T]
	marks     *framework.History[struct{}]
	f         func(framework.View[T], *framework.Event[T]) ([]Emission[B], error)
	step      *framework.Step
	next      framework.Next[B]
}

func (v *evaluation[T, B]) run(s *framework.Scope, e *framework.Event[T]) error {
	match, err := matchOf(v.collected.group, e)
	if err != nil {
		return err
	}
	view, err := v.collected.view(s, match)
	if err != nil {
		return err
	}
	emissions, err := v.f(view, e)
	if err != nil || len(emissions) == 0 {
		return err
	}
	if err := v.trim(s, match, view); err != nil {
		return err
	}
	own := 0
	var made []string // ids that the emissions would have if they were the only ones of their triggers
	for i := range emissions {
		m := &emissions[i]
		if len(m.Triggers) == 0 {
			if err := v.next(s, v.derive(s, m, indexOwn+own, Triggers(e))); err != nil {
				return err
			}
			own++
			continue
		}
		out := v.derive(s, m, 0, m.Triggers)
		id := out.ID()
		if n := count(made, id); n > 0 {
			out = v.derive(s, m, n, m.Triggers)
		}
		made = append(made, id)
		fresh, err := v.mark(s, out.ID(), match, m)
		if err != nil {
			return err
		}
		if !fresh {
			continue
		}
		if err := v.next(s, out); err != nil {
			return err
		}
	}
	return nil
}

// indexOwn is the first of the indexes of emissions without triggers of their own.
const indexOwn = 1 << 32

func (v *evaluation[T, B]) derive(s *framework.Scope, m *Emission[B], index int, triggers []*framework.Header) *framework.Event[B] {
	t := m.Time
	if t.IsZero() {
		for _, trigger := range triggers {
			if trigger.Time.After(t) {
				t = trigger.Time
			}
		}
	}
	out := framework.Derive(s, v.step, index, t, m.Data, triggers...)
	out.Type = m.Type
	return out
}

// mark notes that an emission is made; false when it was before.
func (v *evaluation[T, B]) mark(s *framework.Scope, id, match string, m *Emission[B]) (fresh bool, err error) {
	earliest := m.Triggers[0].Time
	for _, trigger := range m.Triggers[1:] {
		if trigger.Time.Before(earliest) {
			earliest = trigger.Time
		}
	}
	if v.marks.Expired(s, earliest) {
		return false, framework.Permanent(fmt.Errorf("a trigger of %s is not in the history any more", earliest.Format(time.RFC3339Nano)))
	}
	return v.marks.Append(s, framework.NewEvent(id, s.Key(), earliest, struct{}{}), match)
}

// trim forgets the marks of emissions whose triggers a bound by count or bytes has pushed out of the history.
// An event that was pushed out cannot come back: it is older than all that the history has room for.
func (v *evaluation[T, B]) trim(s *framework.Scope, match string, view framework.View[T]) error {
	if c := v.collected.config; c.MaxCount == 0 && c.MaxBytes == 0 || view.Len() == 0 {
		return nil
	}
	old, err := v.marks.Between(s, match, startOfTime, view.At(0).Time.Add(-instant))
	if err != nil {
		return err
	}
	var dead []*framework.Event[struct{}]
	for mark := range old.All {
		dead = append(dead, mark)
	}
	for _, mark := range dead {
		if _, err := v.marks.Delete(s, match, mark.Time, mark.ID()); err != nil {
			return err
		}
	}
	return nil
}

func count(all []string, s string) int {
	n := 0
	for _, a := range all {
		if a == s {
			n++
		}
	}
	return n
}

// nothing encodes the data of events that are only ids.
type nothing struct{}

func (nothing) Decode(*framework.Record, *struct{}) error { return nil }

func (nothing) Append(dst []byte, _ *struct{}) ([]byte, error) { return dst, nil }
