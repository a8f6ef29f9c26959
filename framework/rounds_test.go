package framework_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
)

type thing struct {
	N int `json:"n"`
}

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func things(n, keys int, at func(i int) time.Time) []*framework.Event[thing] {
	all := make([]*framework.Event[thing], n)
	for i := range all {
		all[i] = framework.NewEvent(fmt.Sprint("e", i), fmt.Sprint("k", i%keys), at(i), thing{i})
	}
	return all
}

func atNoon(int) time.Time { return noon }

// timed is a pipeline with one step that is called for each event and for each timer that it sets.
func timed(onEvent func(s *framework.Scope, st *framework.Step, e *framework.Event[thing]) error,
	onTimer func(s *framework.Scope, st *framework.Step, t framework.Timer, next framework.Next[string]) error, states ...framework.State) *framework.Pipeline {
	p := framework.NewPipeline("p")
	step := framework.Step{Name: "timed", Kind: "timed", States: states}
	out := framework.AddStep(framework.From[thing](p, "in"), step, func(st *framework.Step, next framework.Next[string]) framework.Next[thing] {
		st.OnTimer = func(s *framework.Scope, t framework.Timer) error { return onTimer(s, st, t, next) }
		return func(s *framework.Scope, e *framework.Event[thing]) error { return onEvent(s, st, e) }
	})
	framework.To(out, "out")
	return p
}

func emit(s *framework.Scope, st *framework.Step, t framework.Timer, text string, next framework.Next[string]) error {
	return next(s, framework.Derive(s, st, 0, t.At, text, &framework.NewEvent(t.ID, t.Key, t.At, 0).Header))
}

// Many timers of one instant, which the watermark reaches exactly: they need several rounds, and all of them fire.
func TestAllTimersOfOneInstantFire(t *testing.T) {
	const n = 21_000
	for _, lanes := range []int{1, 4} {
		t.Run(fmt.Sprint("lanes=", lanes), func(t *testing.T) {
			p := timed(func(s *framework.Scope, st *framework.Step, e *framework.Event[thing]) error {
				return s.SetTimer(st, noon.Add(time.Hour), e.ID(), nil)
			}, func(s *framework.Scope, st *framework.Step, t framework.Timer, next framework.Next[string]) error {
				return emit(s, st, t, "", next)
			})
			d := frameworktest.New(t, frameworktest.Config{Lanes: lanes, BatchEvents: 1000}, p)
			frameworktest.Send(d, "in", things(n, 500, atNoon)...)
			d.Advance(noon.Add(time.Hour))
			if got := len(d.Outputs("out")); got != n {
				t.Errorf("%d of %d timers fired", got, n)
			}
			d.Restart()
			d.End()
			if got := len(d.Outputs("out")); got != n {
				t.Errorf("%d timers fired of %d", got, n)
			}
		})
	}
}

// What timers cause is cut into as many commits as it takes, also when what is loaded at once does not fit one.
func TestTimersThatDoNotFitOneCommit(t *testing.T) {
	const n = 9_000
	for _, spread := range []time.Duration{0, time.Millisecond} {
		for _, lanes := range []int{1, 4} {
			t.Run(fmt.Sprintf("spread=%v,lanes=%d", spread, lanes), func(t *testing.T) {
				kept := framework.NewHistory("kept", framework.HistoryConfig[thing]{MaxCount: 100})
				p := timed(func(s *framework.Scope, st *framework.Step, e *framework.Event[thing]) error {
					if e.Data.N < 0 {
						return nil
					}
					return s.SetTimer(st, noon.Add(time.Hour+spread*time.Duration(e.Data.N)), e.ID(), nil)
				}, func(s *framework.Scope, st *framework.Step, t framework.Timer, next framework.Next[string]) error {
					if _, err := kept.Append(s, framework.NewEvent(t.ID, t.Key, t.At, thing{}), ""); err != nil {
						return err
					}
					return emit(s, st, t, t.ID, next)
				}, kept)
				d := frameworktest.New(t, frameworktest.Config{Lanes: lanes, BatchEvents: 500, MemoryBytes: 32 << 20}, p)
				events := things(n, 500, atNoon)
				frameworktest.Send(d, "in", events...)
				frameworktest.Send(d, "in", framework.NewEvent("last", "k0", noon.Add(3*time.Hour), thing{-1}))
				if got := len(d.Outputs("out")); got != n {
					t.Fatalf("%d of %d timers fired", got, n)
				}
				last := map[string]time.Time{}
				for _, r := range d.Outputs("out") {
					if r.Time.Before(last[r.Key]) {
						t.Fatalf("key %s: a timer of %s after one of %s", r.Key, r.Time, last[r.Key])
					}
					last[r.Key] = r.Time
				}
			})
		}
	}
}

// A timer that sets the next one, and so on, while the watermark leaps over all of them.
func TestTimersThatSetTimersAreBounded(t *testing.T) {
	const keys, hours = 100, 500
	largest := 0
	p := timed(func(s *framework.Scope, st *framework.Step, e *framework.Event[thing]) error {
		if e.Data.N >= keys {
			return nil
		}
		return s.SetTimer(st, noon.Add(time.Hour), e.ID(), nil)
	}, func(s *framework.Scope, st *framework.Step, t framework.Timer, next framework.Next[string]) error {
		if t.At.Before(noon.Add(hours * time.Hour)) {
			if err := s.SetTimer(st, t.At.Add(time.Hour), t.ID, nil); err != nil {
				return err
			}
		}
		return emit(s, st, t, s.Watermark().Format(time.RFC3339), next)
	})
	d := frameworktest.New(t, frameworktest.Config{Lanes: 4, Engine: func(c *framework.Config) {
		c.Hooks = []framework.Hook{commits(func(i framework.CommitInfo) { largest = max(largest, i.Outputs) })}
	}}, p)
	frameworktest.Send(d, "in", append(things(keys, keys, atNoon),
		framework.NewEvent("last", "k0", noon.Add(hours*2*time.Hour), thing{keys}))...)
	out := d.Outputs("out")
	if len(out) != keys*hours {
		t.Fatalf("%d of %d timers fired", len(out), keys*hours)
	}
	for _, r := range out {
		if want := `"` + r.Time.Format(time.RFC3339) + `"`; string(r.Value) != want {
			t.Fatalf("a timer of %s saw the watermark %s", want, r.Value)
		}
	}
	if largest > 20_000*4 {
		t.Errorf("%d outputs in one commit", largest)
	}
}

type commits func(framework.CommitInfo)

func (f commits) OnCommit(i framework.CommitInfo) { f(i) }

// A timer that is set for a time that has passed fires at the watermark at which it was set, however the events are
// cut into batches.
func TestPastTimersDoNotDependOnBatches(t *testing.T) {
	var want []string
	for _, batch := range []int{1, 7, 100} {
		for _, lanes := range []int{1, 4} {
			p := timed(func(s *framework.Scope, st *framework.Step, e *framework.Event[thing]) error {
				return s.SetTimer(st, e.Time.Add(-time.Hour), e.ID(), nil)
			}, func(s *framework.Scope, st *framework.Step, t framework.Timer, next framework.Next[string]) error {
				return emit(s, st, t, t.ID+" at "+s.Watermark().Format(time.TimeOnly), next)
			})
			d := frameworktest.New(t, frameworktest.Config{BatchEvents: batch, Lanes: lanes}, p)
			frameworktest.Send(d, "in", things(100, 10, func(i int) time.Time { return noon.Add(time.Duration(i) * time.Minute) })...)
			var got []string
			for _, r := range d.Outputs("out") {
				got = append(got, string(r.Value))
			}
			slices.Sort(got)
			if want == nil {
				want = got
			}
			if !slices.Equal(got, want) {
				t.Errorf("batch=%d, lanes=%d:\n%v\nfirst run:\n%v", batch, lanes, got, want)
			}
		}
	}
}

// Events whose effects together exceed a commit are committed in parts; one that exceeds it alone becomes a fault,
// with the timers around it undisturbed.
func TestEventsThatDoNotFitOneCommit(t *testing.T) {
	kept := framework.NewHistory("kept", framework.HistoryConfig[thing]{})
	p := timed(func(s *framework.Scope, st *framework.Step, e *framework.Event[thing]) error {
		n := 10
		if e.Data.N == 50 {
			n = 8_000
		}
		for i := range n {
			if _, err := kept.Append(s, framework.NewEvent(fmt.Sprint(e.ID(), ".", i), e.Key, e.Time, e.Data), ""); err != nil {
				return err
			}
		}
		return s.SetTimer(st, e.Time.Add(time.Second), e.ID(), nil)
	}, func(s *framework.Scope, st *framework.Step, t framework.Timer, next framework.Next[string]) error {
		return emit(s, st, t, t.ID, next)
	}, kept)
	commitsSeen, events := 0, 0
	d := frameworktest.New(t, frameworktest.Config{MemoryBytes: 32 << 20, Lanes: 4, Engine: func(c *framework.Config) {
		c.Hooks = []framework.Hook{commits(func(i framework.CommitInfo) {
			commitsSeen++
			events += i.Events
			at, err := framework.StoredPosition(c.Store, "p/in/0", "in")
			if err != nil || at != int64(events) {
				t.Errorf("after %d events the position is %d, %v", events, at, err)
			}
			if events < 300 && i.Watermark.After(noon.Add(time.Duration(events-1)*time.Second)) {
				t.Errorf("after %d events the watermark is %v", events, i.Watermark)
			}
		})}
	}}, p)
	frameworktest.Send(d, "in", things(300, 10, func(i int) time.Time { return noon.Add(time.Duration(i) * time.Second) })...)
	d.End()
	if got := len(d.Outputs("out")); got != 299 {
		t.Errorf("%d timers fired, want 299", got)
	}
	faults := d.Faults()
	if len(faults) != 1 || faults[0].Event.ID != "e50" || !strings.Contains(faults[0].Error, "does not fit") {
		t.Errorf("faults: %+v", faults)
	}
	if commitsSeen < 3 {
		t.Errorf("%d commits", commitsSeen)
	}
	if c := d.Counts("timed"); c.In != 299 || c.Out != 299 || c.Faults != 0 {
		t.Errorf("counts %+v", c)
	}
}

// Large outputs lie beside the transaction, which bounds them too.
func TestOutputsThatDoNotFitOneCommit(t *testing.T) {
	p := framework.NewPipeline("p")
	big := framework.AddStep(framework.From[thing](p, "in"), framework.Step{Name: "big", Kind: "map"},
		func(st *framework.Step, next framework.Next[[]byte]) framework.Next[thing] {
			return func(s *framework.Scope, e *framework.Event[thing]) error {
				return next(s, framework.Transform(st, e, bytes.Repeat([]byte{byte(e.Data.N)}, 1<<20)))
			}
		})
	framework.To(big, "out", framework.Sink[[]byte]{Codec: framework.Bytes()})
	d := frameworktest.New(t, frameworktest.Config{}, p)
	frameworktest.Send(d, "in", things(70, 10, atNoon)...)
	if got := len(d.Outputs("out")); got != 70 {
		t.Errorf("%d of 70 outputs", got)
	}
}

// What a step did before it failed leaves no trace, in any lane and at any attempt.
func TestFailureLeavesNoTrace(t *testing.T) {
	for _, lanes := range []int{1, 4} {
		history := framework.NewHistory("history", framework.HistoryConfig[thing]{})
		table := framework.NewTable[int]("table", nil)
		attempts := make([]int, 1000)
		p := timed(func(s *framework.Scope, st *framework.Step, e *framework.Event[thing]) error {
			if _, err := history.Append(s, e, ""); err != nil {
				return err
			}
			n, _, err := table.Get(s)
			if err != nil {
				return err
			}
			if err := table.Set(s, n+1); err != nil {
				return err
			}
			if err := s.SetTimer(st, noon.Add(time.Hour), e.ID(), nil); err != nil {
				return err
			}
			attempts[e.Data.N]++
			switch e.Data.N % 5 {
			case 1:
				return errors.New("permanent")
			case 2:
				panic("at the disco")
			case 3:
				if attempts[e.Data.N] < 3 {
					return framework.Transient(errors.New("transient"))
				}
			case 4:
				return framework.Transient(errors.New("for ever"))
			}
			return nil
		}, func(s *framework.Scope, st *framework.Step, t framework.Timer, next framework.Next[string]) error {
			n, _, err := table.Get(s)
			if err != nil {
				return err
			}
			v, err := history.View(s, "")
			if err != nil {
				return err
			}
			return emit(s, st, t, fmt.Sprint(t.ID, " of ", v.Len(), " and ", n), next)
		}, history, table)
		d := frameworktest.New(t, frameworktest.Config{Lanes: lanes}, p)
		frameworktest.Send(d, "in", things(1000, 100, atNoon)...) // key k has N = k, k+100, …: all of one class
		d.Restart()
		d.Advance(noon.Add(time.Hour))
		if got := len(d.Outputs("out")); got != 400 {
			t.Errorf("%d timers, want 400", got)
		}
		for _, r := range d.Outputs("out") {
			if !strings.Contains(string(r.Value), "of 10 and 10") {
				t.Errorf("key %s: %s", r.Key, r.Value)
			}
		}
		want := framework.Counts{In: 400, Out: 400, Faults: 600} // what failed did not come in
		if c := d.Counts("timed"); c != want {
			t.Errorf("counts %+v, want %+v", c, want)
		}
		if n := len(d.Faults()); n != 600 {
			t.Errorf("%d faults", n)
		}
		for _, f := range d.Faults() {
			tried := 1
			if strings.Contains(f.Error, "for ever") {
				tried = 5
			}
			if f.Attempts != tried || f.Step != "timed" {
				t.Fatalf("%d attempts at %s: %s", f.Attempts, f.Step, f.Error)
			}
		}
	}
}
