package framework_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
	"github.com/millrace/millrace/processors"
)

// counted keeps things for a minute, and a minute after each a timer tells how many there are. What it writes is how many it
// has found: before or after it passes it on, or not.
func counted(when string, broken *bool) *framework.Pipeline {
	kept := framework.NewHistory("kept", framework.HistoryConfig[thing]{Retain: time.Minute})
	last := framework.NewTable[int]("last", nil)
	write := func(s *framework.Scope, this string, n int) error {
		if when != this {
			return nil
		}
		return last.Set(s, n)
	}
	return timed(func(s *framework.Scope, st *framework.Step, e *framework.Event[thing]) error {
		if _, err := kept.Append(s, e, ""); err != nil {
			return err
		}
		return s.SetTimer(st, e.Time.Add(time.Minute), e.ID(), nil)
	}, func(s *framework.Scope, st *framework.Step, t framework.Timer, next framework.Next[string]) error {
		v, err := kept.View(s, "")
		if err != nil {
			return err
		}
		n := v.Len()
		was, _, err := last.Get(s)
		if err == nil {
			err = write(s, "before", n)
		}
		if err == nil && *broken && t.ID == "e0" {
			err = errors.New("broken")
		}
		if err == nil {
			err = emit(s, st, t, fmt.Sprint(t.ID, ": ", n, " after ", was), next)
		}
		if err == nil {
			err = write(s, "after", n)
		}
		return err
	}, kept, last)
}

// A timer whose step changes state runs on what there is when it is resubmitted: what it had read and wrote now would undo
// what others have written since. One that only reads decides as it did.
func TestTimersThatChangeState(t *testing.T) {
	for when, want := range map[string][]string{
		"never":  {"e1: 3 after 0", "e2: 2 after 0", "e0: 4 after 0", "e3: 1 after 0"},
		"before": {"e1: 3 after 0", "e2: 2 after 3", "e0: 1 after 2", "e3: 1 after 1"},
		"after":  {"e1: 3 after 0", "e2: 2 after 3", "e0: 1 after 2", "e3: 1 after 1"},
	} {
		t.Run(when, func(t *testing.T) {
			broken := true
			d := frameworktest.New(t, frameworktest.Config{}, counted(when, &broken))
			send := func(n, seconds int) {
				frameworktest.Send(d, "in", framework.NewEvent(fmt.Sprint("e", n), "k", noon.Add(time.Duration(seconds)*time.Second), thing{n}))
			}
			send(0, 0)
			send(1, 20)
			send(2, 40)
			send(3, 110)
			d.Resubmit(d.Faults()...) // in vain
			broken = false
			d.Resubmit(d.Faults()...)
			d.Advance(noon.Add(time.Hour))
			var got []string
			for _, e := range frameworktest.Outputs[string](d, "out") {
				got = append(got, e.Data)
			}
			expect(t, "out", got, want...)
			for _, f := range d.Faults() {
				if read := len(f.Read) > 0; read && when == "before" || !read && when == "never" {
					t.Errorf("fault: %+v", f)
				}
			}
		})
	}
}

// A timer that reads ranges of a history, which its dead letter has as one where they overlap, reads each of them again.
func TestTimersReadTheirRangesAgain(t *testing.T) {
	kept := framework.NewHistory("kept", framework.HistoryConfig[thing]{Retain: time.Minute})
	broken := true
	after := func(seconds int) time.Time { return noon.Add(time.Duration(seconds) * time.Second) }
	d := frameworktest.New(t, frameworktest.Config{}, timed(func(s *framework.Scope, st *framework.Step, e *framework.Event[thing]) error {
		if _, err := kept.Append(s, e, ""); err != nil || e.ID() != "e0" {
			return err
		}
		return s.SetTimer(st, e.Time.Add(time.Minute), e.ID(), nil)
	}, func(s *framework.Scope, st *framework.Step, t framework.Timer, next framework.Next[string]) error {
		var read []string
		for _, r := range [][2]int{{0, 20}, {20, 40}, {10, 30}, {50, 60}} {
			v, err := kept.Between(s, "", after(r[0]), after(r[1]))
			if err != nil {
				return err
			}
			for e := range v.All {
				read = append(read, e.ID())
			}
			read = append(read, "|")
		}
		if broken {
			return errors.New("broken")
		}
		return emit(s, st, t, strings.Join(read, " "), next)
	}, kept))
	for n := range 6 {
		frameworktest.Send(d, "in", framework.NewEvent(fmt.Sprint("e", n), "k", after(10*n), thing{n}))
	}
	d.Advance(noon.Add(time.Hour)) // nothing is kept of them
	faults := d.Faults()
	if len(faults) != 1 || len(faults[0].Read) != 2 || len(faults[0].Read[0].Events) != 5 {
		t.Fatalf("faults: %+v", faults)
	}
	broken = false
	d.Resubmit(faults...)
	var got []string
	for _, e := range frameworktest.Outputs[string](d, "out") {
		got = append(got, e.Data)
	}
	expect(t, "out", got, "e0 e1 e2 | e2 e3 e4 | e1 e2 e3 | e5 |")
}

// minutes puts the events of a minute together; parts says that each is a part of its own, both that the whole fails as well.
func minutes(parts, both bool, broken *bool) *framework.Pipeline {
	p := framework.NewPipeline("p")
	joined := processors.Compact(framework.From[string](p, "in"), "compact", processors.Tumbling{Size: time.Minute},
		func(w framework.View[string]) (int, error) { return w.Len(), nil })
	whole := joined
	if parts {
		joined = processors.Split(joined, "split", func(e *framework.Event[int]) ([]int, error) { return make([]int, e.Data), nil })
	}
	framework.To(processors.Map(joined, "map", func(e *framework.Event[int]) (int, error) {
		if *broken {
			return 0, errors.New("broken")
		}
		return e.Data, nil
	}), "out")
	if both {
		processors.Peek(whole, "peek", func(*framework.Event[int]) {
			if *broken {
				panic("broken")
			}
		})
	}
	return p
}

func sendLarge(d *frameworktest.Driver, key string, n, bytes int) {
	for i := range n {
		frameworktest.Send(d, "in", framework.NewEvent(fmt.Sprint(key, i), key, noon.Add(time.Duration(i)*time.Second), strings.Repeat("x", bytes)))
	}
}

// What a timer read that is too large for a dead letter is left out whole, and told: it then reads what there is. The parts
// of a timer that fail share what there is room for.
func TestTimerReadsThatAreTooLarge(t *testing.T) {
	for _, c := range []struct {
		n, bytes    int
		parts, both bool
		cut, whole  int // faults
		live        bool
	}{
		{n: 4, bytes: 50 << 10, whole: 1},
		{n: 4, bytes: 70 << 10, cut: 1},
		{n: 4, bytes: 70 << 10, cut: 1, live: true},
		{n: 1, bytes: 300 << 10, cut: 1},
		{n: 10, bytes: 10 << 10, parts: true, whole: 2, cut: 8},
		{n: 10, bytes: 10 << 10, parts: true, both: true, whole: 1},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			broken := true
			d := frameworktest.New(t, frameworktest.Config{}, minutes(c.parts, c.both, &broken))
			sendLarge(d, "k", c.n, c.bytes)
			d.Advance(noon.Add(time.Minute))
			var cut, whole int
			for _, f := range d.Faults() {
				switch {
				case len(f.Read) != 1 || f.Read[0].History != "compact.events":
					t.Errorf("fault: %.500v", f)
				case f.Read[0].Cut == c.n && f.Read[0].Events == nil:
					cut++
				case len(f.Read[0].Events) == c.n && f.Read[0].Cut == 0:
					whole++
				}
			}
			if cut != c.cut || whole != c.whole {
				t.Errorf("of %d faults %d are cut and %d whole, want %d and %d", len(d.Faults()), cut, whole, c.cut, c.whole)
			}
			if !c.live {
				d.Advance(noon.Add(time.Hour))
			}
			broken = false
			d.Resubmit(d.Faults()...)
			want := map[bool]int{true: c.n, false: 1}[c.parts]
			if c.whole == 0 && !c.live {
				want = 0
			}
			if out := d.Outputs("out"); len(out) != want {
				t.Errorf("%d are sent, want %d: %.300q", len(out), want, toldFaults(d))
			}
		})
	}
}

// Many timers that fail at once with much that they have read make several rounds.
func TestManyTimersFailWithLargeReads(t *testing.T) {
	broken, commits := true, 0
	d := frameworktest.New(t, frameworktest.Config{Engine: func(c *framework.Config) {
		c.Hooks = append(c.Hooks, onCommit(func(framework.CommitInfo) { commits++ }))
	}}, minutes(false, false, &broken))
	const n = 90
	var all []*framework.Event[string]
	for i := range n {
		all = append(all, framework.NewEvent(fmt.Sprint("e", i), fmt.Sprint("k", i), noon, strings.Repeat("x", 200<<10)))
	}
	frameworktest.Send(d, "in", all...)
	commits = 0
	d.Advance(noon.Add(time.Hour))
	if commits < 2 {
		t.Errorf("%d commits for 18 MB, of at most 16 MiB", commits)
	}
	broken = false
	d.Resubmit(d.Faults()...)
	ids := map[string]bool{}
	for _, r := range d.Outputs("out") {
		ids[r.ID] = true
	}
	if len(ids) != n {
		t.Errorf("%d are sent, want %d", len(ids), n)
	}
}

// A timer that asks for more ranges than are noted reads what there is.
func TestTimersThatReadMuch(t *testing.T) {
	for n, want := range map[int]string{64: "1", 65: "0"} {
		broken := true
		kept := framework.NewHistory("kept", framework.HistoryConfig[thing]{Retain: time.Hour})
		d := frameworktest.New(t, frameworktest.Config{}, timed(func(s *framework.Scope, st *framework.Step, e *framework.Event[thing]) error {
			if _, err := kept.Append(s, e, "0"); err != nil {
				return err
			}
			return s.SetTimer(st, e.Time.Add(time.Minute), e.ID(), nil)
		}, func(s *framework.Scope, st *framework.Step, t framework.Timer, next framework.Next[string]) error {
			found := 0
			for i := range n {
				v, err := kept.View(s, fmt.Sprint(i))
				if err != nil {
					return err
				}
				found += v.Len()
			}
			if broken {
				return errors.New("broken")
			}
			return emit(s, st, t, fmt.Sprint(found), next)
		}, kept))
		frameworktest.Send(d, "in", framework.NewEvent("e0", "k", noon, thing{0}))
		d.Advance(noon.Add(2 * time.Hour))
		broken = false
		if f := d.Faults(); len(f) != 1 || len(f[0].Read) != map[int]int{64: 64}[n] {
			t.Errorf("%d ranges: %+v", n, f)
		}
		d.Resubmit(d.Faults()...)
		if out := frameworktest.Outputs[string](d, "out"); len(out) != 1 || out[0].Data != want {
			t.Errorf("%d ranges: %+v, want %s", n, out, want)
		}
	}
}

// What cannot be read of what a timer had read is refused, with what and where.
func TestResubmitRefusesReads(t *testing.T) {
	b := newBench(t, 0)
	r := b.runner(t, oneStep(func(*framework.Scope, *framework.Event[thing]) error { return nil }))
	for want, e := range map[string]framework.FaultEvent{
		"no time": {ID: "e0"}, "illegal base64": {ID: "e0", Time: &noon, DataBase64: "?"}, "too many for the dead-letter topic": {ID: "e0", Time: &noon, Cut: 7},
	} {
		f := framework.Fault{Pipeline: "p", Topic: "in", Read: []framework.HistoryRead{{History: "join.left", Events: []framework.FaultEvent{e}}}}
		err := r.Resubmit(t.Context(), f)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `"join.left"`) || !strings.Contains(err.Error(), `"e0"`) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
