package framework_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
	"github.com/millrace/millrace/processors"
)

// failing is a pipeline in → step → out that parks and fails for the events of which broken is true.
func failing(broken func(n int) bool, park ...framework.Parking) *framework.Pipeline {
	p := oneStep(func(_ *framework.Scope, e *framework.Event[thing]) error {
		if broken(e.Data.N) {
			return fmt.Errorf("%d is broken", e.Data.N)
		}
		return nil
	})
	for _, c := range park {
		p.Park(c)
	}
	return p
}

// toldOut is what has come out, "key:number" in order.
func toldOut(d *frameworktest.Driver) (all []string) {
	for _, e := range frameworktest.Outputs[thing](d, "out") {
		all = append(all, fmt.Sprint(e.Key, ":", e.Data.N))
	}
	return all
}

func toldFaults(d *frameworktest.Driver) (all []string) {
	for _, f := range d.Faults() {
		all = append(all, fmt.Sprint(f.Class, " ", f.Event.ID, " ", f.Parked, " ", f.Resubmitted))
	}
	return all
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// After a failure later events of the key wait, in the store and in the dead letters, with their bytes; other keys go
// on; a restart changes nothing. Sent again in vain they still wait, and then run in their order.
func TestParkedKeyWaits(t *testing.T) {
	for _, lanes := range []int{1, 4} {
		broken := true
		d := frameworktest.New(t, frameworktest.Config{Lanes: lanes}, failing(func(n int) bool { return broken && n == 2 }, framework.Parking{}))
		frameworktest.Send(d, "in", things(4, 2, atNoon)...) // k0: 0 2, k1: 1 3
		d.Restart()
		more := things(8, 2, atNoon)[4:] // k0: 4 6, k1: 5 7
		frameworktest.Send(d, "in", more...)
		expect(t, "out", toldOut(d), "k0:0", "k1:1", "k1:3", "k1:5", "k1:7")
		expect(t, "faults", toldFaults(d), "permanent e2 true 0", "parked e4 true 0", "parked e6 true 0")
		f := d.Faults()[1]
		if f.Event.Data != `{"n":4}` || f.Event.Key != "k0" || f.Step != "in" || !strings.Contains(f.Error, `"e2"`) || !strings.Contains(f.Error, `"step"`) {
			t.Errorf("a parked event is %+v", f)
		}
		if parked := d.Parked(); len(parked) != 1 || parked[0].Key != "k0" || parked[0].Step != "step" || parked[0].Event != "e2" || parked[0].Waiting != 3 {
			t.Errorf("parked: %+v", parked)
		}
		if c := d.Counts("in"); c.In != 8 || c.Faults != 2 {
			t.Errorf("counts of the source: %+v", c)
		}

		d.Resubmit(d.Faults()...) // in vain
		expect(t, "out", toldOut(d)[5:])
		expect(t, "faults", toldFaults(d)[3:], "permanent e2 true 1")
		d.Resubmit(d.Faults()[1])
		expect(t, "faults", toldFaults(d)[4:], "permanent e2 true 2")
		d.Restart()
		broken = false
		d.Resubmit(d.Faults()[2]) // any of the key will do
		expect(t, "out", toldOut(d)[5:], "k0:2", "k0:4", "k0:6")
		if parked := d.Parked(); len(parked) != 0 {
			t.Errorf("still parked: %+v", parked)
		}
		d.Resubmit(d.Faults()...) // once more: it has run already
		frameworktest.Send(d, "in", framework.NewEvent("e8", "k0", noon, thing{8}))
		expect(t, "out", toldOut(d)[5:], "k0:2", "k0:4", "k0:6", "k0:8")
		if c := d.Counts("step"); c.In != 9 || c.Out != 9 || c.Faults != 3 || d.Counts("in").In != 9 {
			t.Errorf("counts: %+v", c)
		}
	}
}

// The bytes of the event that a key waits for can be mended; or the event can be given up.
func TestParkedEventIsMendedOrDiscarded(t *testing.T) {
	d := frameworktest.New(t, frameworktest.Config{}, failing(func(n int) bool { return n == 0 || n == 2 }, framework.Parking{}))
	frameworktest.Send(d, "in", things(4, 1, atNoon)...)
	expect(t, "out", toldOut(d))
	f := d.Faults()[0]
	f.Event.Data = `{"n":100}`
	d.Resubmit(f)
	expect(t, "out", toldOut(d), "k0:100", "k0:1")
	if out := d.Outputs("out"); out[0].ID != "e0" {
		t.Errorf("the mended event has the id %q", out[0].ID)
	}
	last := d.Faults()[len(d.Faults())-1]
	if last.Event.ID != "e2" || last.Class != framework.ClassPermanent || last.Resubmitted != 1 {
		t.Fatalf("last fault: %+v", last)
	}
	d.Discard(last)
	expect(t, "out", toldOut(d), "k0:100", "k0:1", "k0:3")
	if parked := d.Parked(); len(parked) != 0 {
		t.Errorf("still parked: %+v", parked)
	}
}

// What has no key, or none that is known, is a fault as ever. What cannot be read but has a key is parked, and can be
// mended.
func TestWhatCannotBeParked(t *testing.T) {
	p := framework.NewPipeline("p")
	p.Park(framework.Parking{})
	keyed := framework.From(p, "keyed", framework.Source[thing]{Key: func(v thing) string {
		if v.N < 0 {
			panic("below zero")
		}
		return fmt.Sprint("k", v.N)
	}})
	framework.To(processors.Merge("all", framework.From[thing](p, "plain"), keyed), "out")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	bytes := func(id, key, value string) framework.Record {
		return framework.Record{ID: id, Key: key, Time: noon, Value: []byte(value)}
	}
	d.Send("plain", bytes("a", "", "no json"), bytes("b", "", `{"n":1}`), bytes("c", "k", "no json"), bytes("d", "k", `{"n":4}`))
	d.Send("keyed", bytes("e", "r", "no json"), bytes("f", "r", `{"n":-1}`), bytes("g", "r", `{"n":7}`))
	expect(t, "faults", toldFaults(d), "permanent a false 0", "permanent c true 0", "parked d true 0", "permanent e false 0", "permanent f false 0")
	expect(t, "out", toldOut(d), ":1", "k7:7")
	c := d.Faults()[1]
	c.Event.Data = `{"n":3}`
	e := d.Faults()[3]
	e.Event.Data = `{"n":5}` // its key is not known before it can be read
	d.Resubmit(c, e)
	expect(t, "out", toldOut(d)[2:], "k:3", "k:4", "k5:5")
}

// A part of a split takes its event with it, so that no part is repeated when it is sent again.
func TestPartParksItsEvent(t *testing.T) {
	broken := true
	p := framework.NewPipeline("p")
	p.Park(framework.Parking{})
	parts := processors.Split(framework.From[thing](p, "in"), "split", func(e *framework.Event[thing]) ([]thing, error) {
		return []thing{{e.Data.N}, {e.Data.N + 1}, {e.Data.N + 2}}, nil
	})
	framework.To(processors.Map(parts, "map", func(e *framework.Event[thing]) (thing, error) {
		if broken && e.Data.N == 11 {
			return thing{}, errors.New("broken")
		}
		return e.Data, nil
	}), "out")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	frameworktest.Send(d, "in", framework.NewEvent("e0", "k", noon, thing{10}), framework.NewEvent("e1", "k", noon, thing{20}))
	expect(t, "out", toldOut(d))
	if f := d.Faults(); len(f) != 2 || f[0].Part == "" || f[0].Step != "map" || !f[0].Parked {
		t.Errorf("faults: %+v", f)
	}
	broken = false
	d.Resubmit(d.Faults()...)
	expect(t, "out", toldOut(d), "k:10", "k:11", "k:12", "k:20", "k:21", "k:22")
}

// parkedHalfAnHour runs a pipeline of which the first of three events of a key fails, and is run again half an hour later,
// after a restart. Nothing must be parked then.
func parkedHalfAnHour(t *testing.T, hold time.Duration, steps func(checked *framework.Stream[thing])) *frameworktest.Driver {
	t.Helper()
	broken := true
	p := framework.NewPipeline("p")
	p.Park(framework.Parking{Hold: hold})
	steps(processors.Map(framework.From[thing](p, "in"), "map", func(e *framework.Event[thing]) (thing, error) {
		if broken && e.Data.N == 1 {
			return thing{}, errors.New("broken")
		}
		return e.Data, nil
	}))
	d := frameworktest.New(t, frameworktest.Config{}, p)
	frameworktest.Send(d, "in", things(3, 1, func(i int) time.Time { return noon.Add(time.Duration(i) * time.Second) })...)
	d.Advance(noon.Add(30 * time.Minute))
	d.Restart()
	broken = false
	d.Resubmit(d.Faults()...)
	if parked := d.Parked(); len(parked) != 0 {
		t.Errorf("still parked: %+v", parked)
	}
	return d
}

// Past Hold the state of parked keys goes as that of others does, and their events are late: they do not wait for ever.
func TestParkedLongerThanHold(t *testing.T) {
	for _, hold := range []time.Duration{time.Minute, time.Hour} {
		d := parkedHalfAnHour(t, hold, func(checked *framework.Stream[thing]) {
			framework.To(processors.SelfJoin(checked, "join", nil, processors.Window{Within: time.Minute},
				func(a, b *framework.Event[thing]) (thing, bool, error) { return thing{a.Data.N + b.Data.N}, true, nil }), "out")
		})
		if hold == time.Minute {
			expect(t, "out", toldOut(d))
			expect(t, "faults", toldFaults(d)[2:], "late e1 false 1", "late e2 false 1")
		} else {
			expect(t, "out", toldOut(d), "k0:1", "k0:2", "k0:3")
		}
	}
}

// Timers of a key that was parked for longer than Hold may find nothing any more of what they were set for. They are late
// then, like the key's events, and the key goes on: it does not wait for what can never run.
func TestTimersParkedLongerThanHold(t *testing.T) {
	d := parkedHalfAnHour(t, time.Minute, func(checked *framework.Stream[thing]) {
		never := processors.Filter(checked, "never", func(*framework.Event[thing]) bool { return false })
		framework.To(processors.LeftJoin(checked, never, "join", processors.SameKey, processors.Window{Within: time.Minute},
			func(l, _ *framework.Event[thing]) (thing, error) { return l.Data, nil }), "joined")
		framework.To(processors.Compact(checked, "compact", processors.Tumbling{Size: time.Minute},
			func(w framework.View[thing]) (thing, error) { return w.At(0).Data, nil }), "last")
		framework.To(processors.Expire(processors.Collect(checked, "kept", processors.CollectConfig{Retain: time.Minute}), "expire", time.Minute,
			func(_ framework.View[thing], e *framework.Event[thing]) (thing, bool, error) {
				return e.Data, true, nil
			}), "expired")
		framework.To(checked, "out")
	})
	expect(t, "out", toldOut(d), "k0:0", "k0:1", "k0:2")
	steps := map[string]int{}
	for _, f := range d.Faults()[2:] {
		if f.Class != framework.ClassLate {
			t.Errorf("a fault of step %s is %s: %s", f.Step, f.Class, f.Error)
		}
		steps[f.Step]++
	}
	if want := map[string]int{"join": 3, "compact": 3, "kept": 2, "expire": 1}; !maps.Equal(steps, want) {
		t.Errorf("late, by steps: %v, want %v: of the first event the timer, of those that waited themselves", steps, want)
	}
	for _, topic := range []string{"joined", "last", "expired"} {
		if out := d.Outputs(topic); len(out) != 0 {
			t.Errorf("%s: %v", topic, out)
		}
	}
}

// A pipeline that no longer parks keeps to what it has parked before.
func TestParkingIsTurnedOff(t *testing.T) {
	store := openStore(t, t.TempDir())
	b := &bench{store: store, feed: framework.NewFeed(map[string][][]framework.Record{"in": {thingRecords(4, 2, time.Second)}})}
	b.config = framework.Config{Store: store, Transport: topicsIn(t, store), Routes: map[string]framework.Transport{"in": b.feed}}
	b.feed.Bounded = true
	broken := func(n int) bool { return n < 1 }
	if err := soon(t, run(t.Context(), t, b.runner(t, failing(broken, framework.Parking{})))); err != nil {
		t.Fatal(err)
	}
	b.feed.Push("in", 0, thingRecords(8, 2, time.Second)[4:]...)
	r := b.runner(t, failing(func(n int) bool { return n == 5 }))
	if err := soon(t, run(t.Context(), t, r)); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, out := range readTopic(t, topicsIn(t, store), "out") {
		ids = append(ids, out.ID)
	}
	expect(t, "out", ids, "e1", "e3", "e7") // k0 waits, k1 does not
	var faults []framework.Fault
	if err := r.DeadLetters(t.Context(), "p", func(f framework.Fault) error { faults = append(faults, f); return nil }); err != nil {
		t.Fatal(err)
	}
	// Not running: it is for the next run, before what is new.
	again := b.runner(t, failing(func(int) bool { return false }))
	if err := again.Resubmit(t.Context(), faults...); err != nil {
		t.Fatal(err)
	}
	b.feed.Push("in", 0, framework.Record{ID: "e8", Key: "k0", Time: noon, Value: []byte(`{"n":8}`)})
	if err := soon(t, run(t.Context(), t, again)); err != nil {
		t.Fatal(err)
	}
	ids = nil
	for _, out := range readTopic(t, topicsIn(t, store), "out")[3:] {
		ids = append(ids, out.ID)
	}
	expect(t, "out", ids, "e0", "e2", "e4", "e6", "e5", "e8")
}

// More than may be parked ends the run, and nothing is lost.
func TestParkingIsBounded(t *testing.T) {
	for name, c := range map[string]framework.Parking{"keys": {MaxKeys: 3}, "bytes": {MaxBytes: 200}} {
		b := newBench(t, 100) // 10 keys
		b.config.BatchEvents, b.feed.Bounded = 10, true
		most := map[string]int{"keys": 4, "bytes": 1}[name]
		r := b.runner(t, failing(func(n int) bool { return n < most }, c))
		err := soon(t, run(t.Context(), t, r))
		if !errors.Is(err, framework.ErrParkingFull) || !strings.Contains(err.Error(), "Max"+strings.ToUpper(name[:1])+name[1:]) {
			t.Fatalf("%s: %v", name, err)
		}
		if err := soon(t, run(t.Context(), t, b.runner(t, failing(func(int) bool { return false }, framework.Parking{})))); err != nil {
			t.Fatal(err)
		}
		var faults []framework.Fault
		r = b.runner(t, failing(func(int) bool { return false }, framework.Parking{}))
		if err := r.DeadLetters(t.Context(), "p", func(f framework.Fault) error { faults = append(faults, f); return nil }); err != nil {
			t.Fatal(err)
		}
		if err := r.Resubmit(t.Context(), faults...); err != nil {
			t.Fatal(err)
		}
		if err := soon(t, run(t.Context(), t, r)); err != nil {
			t.Fatal(err)
		}
		if got := len(readTopic(t, topicsIn(t, b.store), "out")); got != 100 {
			t.Errorf("%s: %d of 100 came out", name, got)
		}
	}
}

// What is parked moves with a partition in the changelog only, so a stage that is shared out does not park without one.
func TestSharedStagesDoNotPark(t *testing.T) {
	p, _ := justPairs()
	p.Park(framework.Parking{})
	store := openStore(t, t.TempDir())
	r, err := framework.New(framework.Config{Store: store, Transport: sharedBroker(1).Join()}, p)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "does not move with a partition but in a changelog") {
		t.Errorf("a shared stage that parks: %v", err)
	}
}
