package framework_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/processors"
)

// Without Park a fault is run as if it came now; failing again makes another fault.
func TestResubmitWithoutParking(t *testing.T) {
	broken := true
	d := frameworktest.New(t, frameworktest.Config{Partitions: 3}, failing(func(n int) bool { return broken && n%3 == 0 }))
	frameworktest.Send(d, "in", things(7, 7, atNoon)...)
	before := len(toldOut(d))
	d.Resubmit(d.Faults()...)
	broken = false
	faults := d.Faults()
	if len(faults) != 6 || faults[5].Resubmitted != 1 {
		t.Fatalf("faults: %q", toldFaults(d))
	}
	seen := map[string]bool{}
	for _, r := range d.Outputs("p.faults") {
		if seen[r.ID] {
			t.Errorf("two faults have the id %s", r.ID)
		}
		seen[r.ID] = true
	}
	d.Restart()
	d.Resubmit(faults[3:]...)
	again := toldOut(d)[before:]
	slices.Sort(again)
	expect(t, "out", again, "k0:0", "k3:3", "k6:6")
	if len(d.Faults()) != 6 {
		t.Errorf("faults: %q", toldFaults(d))
	}
}

// A timer that failed is run again, by itself or with its key.
func TestTimerIsRunAgain(t *testing.T) {
	for _, parks := range []bool{false, true} {
		broken := true
		p := timed(func(s *framework.Scope, st *framework.Step, e *framework.Event[thing]) error {
			return s.SetTimer(st, e.Time.Add(time.Minute), e.ID(), []byte{0xff, byte(e.Data.N)})
		}, func(s *framework.Scope, st *framework.Step, t framework.Timer, next framework.Next[string]) error {
			if broken {
				return errors.New("broken")
			}
			return emit(s, st, t, fmt.Sprintf("%x", t.Payload), next)
		})
		if parks {
			p.Park(framework.Parking{})
		}
		d := frameworktest.New(t, frameworktest.Config{}, p)
		frameworktest.Send(d, "in", framework.NewEvent("e0", "k", noon, thing{7}))
		d.Advance(noon.Add(time.Hour))
		if f := d.Faults(); len(f) != 1 || f[0].Parked != parks || f[0].Topic != "timer" {
			t.Fatalf("faults: %+v", f)
		}
		broken = false
		d.Resubmit(d.Faults()...)
		if out := d.Outputs("out"); len(out) != 1 || string(out[0].Value) != `"ff07"` {
			t.Errorf("parks=%v: %d outputs, %+v", parks, len(out), out)
		}
	}
}

// Timers have the ids that their steps give them, which may be the same for all keys and times: their dead letters have
// ids of their own all the same, or who knows them by their ids would take them for one.
func TestDeadLettersOfTimersHaveIds(t *testing.T) {
	p := framework.NewPipeline("p")
	in := framework.From[thing](p, "in")
	var all []*framework.Stream[thing]
	for _, name := range []string{"minutes", "seconds"} {
		size := map[string]time.Duration{"minutes": time.Minute, "seconds": 20 * time.Second}[name]
		all = append(all, processors.Compact(in, name, processors.Tumbling{Size: size},
			func(w framework.View[thing]) (thing, error) { return w.At(0).Data, nil }))
	}
	framework.To(processors.Map(processors.Merge("all", all...), "map", func(*framework.Event[thing]) (thing, error) {
		return thing{}, errors.New("broken")
	}), "out")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	frameworktest.Send(d, "in", things(4, 2, func(i int) time.Time { return noon.Add(time.Duration(i) * time.Minute) })...)
	d.Advance(noon.Add(time.Hour))
	ids := map[string]bool{}
	for _, r := range d.Outputs(p.DeadLetters()) {
		ids[r.ID] = true
	}
	if faults := len(d.Faults()); faults != 8 || len(ids) != faults {
		t.Errorf("%d faults, want 8: four events, each alone in a window of either step; they have %d ids", faults, len(ids))
	}
}

// What is resubmitted while the pipeline runs is run by it.
func TestResubmitWhileRunning(t *testing.T) {
	b := newBench(t, 100)
	var broken atomic.Bool
	broken.Store(true)
	faults := make(chan framework.Fault, 100)
	b.config.Hooks = []framework.Hook{faultsTo(faults)}
	r := b.runner(t, failing(func(n int) bool { return broken.Load() && n == 99 }, framework.Parking{}))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := run(ctx, t, r)
	f := <-faults
	if err := r.Resubmit(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if f = <-faults; f.Resubmitted != 1 {
		t.Errorf("fault: %+v", f)
	}
	b.feed.Push("in", 0, framework.Record{ID: "e100", Key: f.Event.Key, Time: noon, Value: []byte(`{"n":100}`)})
	if f = <-faults; f.Class != framework.ClassParked {
		t.Errorf("fault: %+v", f)
	}
	broken.Store(false)
	if err := r.Resubmit(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	b.feed.End("in", 0)
	if err := soon(t, done); err != nil {
		t.Fatal(err)
	}
	// The run may have ended before it looked; then the next does it.
	b.feed.Bounded = true
	if err := soon(t, run(t.Context(), t, b.runner(t, failing(func(int) bool { return false }, framework.Parking{})))); err != nil {
		t.Fatal(err)
	}
	out := readTopic(t, topicsIn(t, b.store), "out")
	if len(out) != 101 || out[99].ID != "e99" || out[100].ID != "e100" {
		t.Errorf("%d outputs, the last %+v", len(out), out[len(out)-1])
	}
}

type faultsTo chan framework.Fault

func (c faultsTo) OnFault(f framework.Fault) { c <- f }

// What is run again goes through the middlewares of events, and what is late without Park is late again: another fault.
func TestResubmittedGoesTheSameWay(t *testing.T) {
	calls, broken := 0, true
	p := framework.NewPipeline("p")
	checked := processors.Map(framework.From[thing](p, "in"), "map", func(e *framework.Event[thing]) (thing, error) {
		if broken && e.Data.N == 1 {
			return thing{}, errors.New("broken")
		}
		return e.Data, nil
	})
	framework.To(processors.SelfJoin(checked, "join", nil, processors.Window{Within: time.Minute},
		func(a, b *framework.Event[thing]) (thing, bool, error) { return thing{a.Data.N + b.Data.N}, true, nil }), "out")
	count := func(next message.HandlerFunc) message.HandlerFunc {
		return func(m *message.Message) ([]*message.Message, error) { calls++; return next(m) }
	}
	d := frameworktest.New(t, frameworktest.Config{Engine: func(c *framework.Config) {
		c.EventMiddlewares = framework.PerEvent(count)
	}}, p)
	frameworktest.Send(d, "in", things(2, 1, func(i int) time.Time { return noon.Add(time.Duration(i) * time.Second) })...)
	d.Advance(noon.Add(time.Hour))
	broken = false
	d.Resubmit(d.Faults()...)
	d.Resubmit(d.Faults()[1])
	expect(t, "faults", toldFaults(d), "permanent e1 false 0", "late e1 false 1", "late e1 false 2")
	if calls != 4 {
		t.Errorf("the middleware was called %d times, want 4", calls)
	}
	if ids := d.Outputs("p.faults"); ids[1].ID == ids[2].ID {
		t.Errorf("two faults with the id %s", ids[1].ID)
	}
}

// What Resubmit cannot send anywhere is refused, with what and why.
func TestResubmitRefuses(t *testing.T) {
	b := newBench(t, 0)
	r := b.runner(t, failing(func(int) bool { return false }))
	for want, f := range map[string]framework.Fault{
		`pipeline "q"`:    {Pipeline: "q", Topic: "in"},
		`topic "other"`:   {Pipeline: "p", Topic: "other"},
		`partition 1`:     {Pipeline: "p", Topic: "in", Partition: 1},
		`timer of step "`: {Pipeline: "p", Topic: "timer", Step: "step"},
	} {
		if err := r.Resubmit(t.Context(), f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if err := r.Discard(t.Context(), framework.Fault{Pipeline: "p", Topic: "in", Class: framework.ClassParked, Parked: true}); err == nil {
		t.Error("an event that waits for another was discarded")
	}
	if err := r.DeadLetters(t.Context(), "q", nil); err == nil {
		t.Error("another pipeline has dead letters")
	}
	if err := r.DeadLetters(t.Context(), "p", nil); err != nil {
		t.Errorf("a pipeline that has not run: %v", err)
	}
}

// What waits for a key is run again in as many commits as it takes; an event that does not fit one by itself is a fault.
func TestRerunsThatDoNotFitOneCommit(t *testing.T) {
	broken := true
	kept := framework.NewHistory("kept", framework.HistoryConfig[string]{MaxCount: 10_000})
	p := timed(func(s *framework.Scope, _ *framework.Step, e *framework.Event[thing]) error {
		if broken && e.Data.N == 0 {
			return errors.New("broken")
		}
		many := 1
		if e.Data.N == 50 {
			many = 1000
		}
		for i := range many {
			text := strings.Repeat("x", 30<<10)
			if _, err := kept.Append(s, framework.NewEvent(fmt.Sprint(e.ID(), "-", i), e.Key, e.Time, text), ""); err != nil {
				return err
			}
		}
		return nil
	}, nil, kept)
	p.Park(framework.Parking{})
	commits := 0
	d := frameworktest.New(t, frameworktest.Config{Lanes: 2, Engine: func(c *framework.Config) {
		c.Hooks = append(c.Hooks, onCommit(func(framework.CommitInfo) { commits++ }))
	}}, p)
	frameworktest.Send(d, "in", things(400, 1, atNoon)...)
	broken, commits = false, 0
	d.Resubmit(d.Faults()[0])
	last := d.Faults()[len(d.Faults())-1]
	if last.Event.ID != "e50" || !strings.Contains(last.Error, "does not fit") || !last.Parked {
		t.Fatalf("last fault: %+v", last)
	}
	if got := len(frameworktest.History[string](d, "timed", "k0")); got != 50 {
		t.Errorf("%d events have run, want 50", got)
	}
	d.Discard(last)
	if got := len(frameworktest.History[string](d, "timed", "k0")); got != 399 {
		t.Errorf("%d events have run, want 399", got)
	}
	if commits < 4 {
		t.Errorf("%d commits for 12 MB", commits)
	}
	if parked := d.Parked(); len(parked) != 0 {
		t.Errorf("still parked: %+v", parked)
	}
}

// A key whose events take several commits is run to its end by the next run, when one is cut off.
func TestRerunGoesOnInTheNextRun(t *testing.T) {
	const n = 1000
	b := newBench(t, 0)
	b.feed.Push("in", 0, thingRecords(n, 1, time.Second)...)
	b.feed.Bounded = true
	if err := soon(t, run(t.Context(), t, b.runner(t, failing(func(n int) bool { return n == 0 }, framework.Parking{})))); err != nil {
		t.Fatal(err)
	}
	mended := func() *framework.Runner {
		return b.runner(t, failing(func(int) bool { return false }, framework.Parking{}))
	}
	r, cut := mended(), errors.New("cut")
	err := r.DeadLetters(t.Context(), "p", func(f framework.Fault) error {
		if f.Class == framework.ClassParked {
			return nil
		}
		return r.Resubmit(t.Context(), f)
	})
	if err != nil {
		t.Fatal(err)
	}
	hits := 0
	disarm := failpoint.Arm("commit.after", func() error {
		if hits++; hits == 2 {
			return cut
		}
		return nil
	})
	err = soon(t, run(t.Context(), t, r))
	disarm()
	if !errors.Is(err, cut) {
		t.Fatal(err)
	}
	if got := len(readTopic(t, topicsIn(t, b.store), "out")); got == 0 || got >= n {
		t.Fatalf("%d events have been run; it was to be cut off among them", got)
	}
	if err := soon(t, run(t.Context(), t, mended())); err != nil {
		t.Fatal(err)
	}
	for i, out := range readTopic(t, topicsIn(t, b.store), "out") {
		if out.ID != fmt.Sprint("e", i) {
			t.Fatalf("output %d is %s", i, out.ID)
		}
	}
	if got := len(readTopic(t, topicsIn(t, b.store), "out")); got != n {
		t.Errorf("%d of %d came out", got, n)
	}
}

type onCommit func(framework.CommitInfo)

func (f onCommit) OnCommit(c framework.CommitInfo) { f(c) }
