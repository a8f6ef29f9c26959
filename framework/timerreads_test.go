package framework_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
	"github.com/millrace/millrace/processors"
)

// unpaid has timers of all kinds, and a step behind each that fails for what broken says of a timer.
//
//	left, right → left join → unpaid
//	left → compact → lasts
//	     → collect (newest 3) → expire → expired
func unpaid(broken func(id string) bool, park ...framework.Parking) *framework.Pipeline {
	return unpaidOf("p", broken, park...)
}

func unpaidOf(name string, broken func(id string) bool, park ...framework.Parking) *framework.Pipeline {
	p := framework.NewPipeline(name)
	for _, c := range park {
		p.Park(c)
	}
	to := func(in *framework.Stream[string], topic string) {
		framework.To(processors.Map(in, "to-"+topic, func(e *framework.Event[string]) (string, error) {
			if broken(topic + " " + e.Data) {
				return "", errors.New("broken")
			}
			return e.Data, nil
		}), topic)
	}
	source := framework.Source[thing]{OutOfOrder: 5 * time.Second}
	left, right := framework.From(p, "left", source), framework.From(p, "right", source)
	to(processors.LeftJoin(left, right, "join", processors.SameKey, processors.Window{Within: 30 * time.Second},
		func(l, r *framework.Event[thing]) (string, error) {
			if r == nil {
				return fmt.Sprint(l.Data.N, " alone"), nil
			}
			return fmt.Sprint(l.Data.N, " with ", r.Data.N), nil
		}), "unpaid")
	to(processors.Compact(left, "compact", processors.Tumbling{Size: time.Minute},
		func(w framework.View[thing]) (string, error) {
			return fmt.Sprint(w.At(w.Len()-1).Data.N, " last of ", w.Len()), nil
		}), "lasts")
	kept := processors.Collect(left, "kept", processors.CollectConfig{Retain: 2 * time.Minute, MaxCount: 3})
	to(processors.Expire(kept, "expire", time.Minute, func(h framework.View[thing], e *framework.Event[thing]) (string, bool, error) {
		return fmt.Sprint(e.Data.N, " among ", h.Len()), true, nil
	}), "expired")
	return p
}

var unpaidTopics = []string{"unpaid", "lasts", "expired"}

// sentBy is what a pipeline has sent, by id; what has one id has to be one event. The records of each id are counted.
func sentBy(t interface{ Errorf(string, ...any) }, d *frameworktest.Driver) (all map[string]string, times map[string]int) {
	all, times = map[string]string{}, map[string]int{}
	for _, topic := range unpaidTopics {
		for _, r := range d.Outputs(topic) {
			r.Offset = 0
			id, what := topic+" "+r.ID, fmt.Sprintf("%s %+v", r.Value, r)
			if was, ok := all[id]; ok && was != what {
				t.Errorf("%s was %s, and is %s", id, was, what)
			}
			all[id] = what
			times[id]++
		}
	}
	return all, times
}

func sameSent(t interface{ Errorf(string, ...any) }, got, want map[string]string) {
	for _, id := range slices.Sorted(maps.Keys(want)) {
		if got[id] != want[id] {
			t.Errorf("%s:\n  got  %q\n  want %q", id, got[id], want[id])
		}
	}
	for _, id := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[id]; !ok {
			t.Errorf("%s: got %q, want nothing", id, got[id])
		}
	}
}

func never(string) bool { return false }

// A timer of a window that failed behind its step, because of a service that was away, is run again with what was in the
// window, whatever has become of that: it is kept no longer, was pushed out, or the process is another. What it sends is
// what it would have sent, each time that it is resubmitted under the same id.
func TestTimersOfWindowsAreRunAgain(t *testing.T) {
	first := framework.NewEvent("e0", "k", noon, thing{0})
	meanwhile := map[string]func(*frameworktest.Driver){
		"nothing": func(*frameworktest.Driver) {},
		"the window has closed": func(d *frameworktest.Driver) {
			d.Advance(noon.Add(time.Hour))
		},
		"it has closed, and the process is another": func(d *frameworktest.Driver) {
			d.Advance(noon.Add(time.Hour))
			d.Restart()
		},
		"others have pushed it out": func(d *frameworktest.Driver) {
			for i := range 4 {
				frameworktest.Send(d, "left", framework.NewEvent(fmt.Sprint("x", i), "k", noon.Add(61*time.Second), thing{10 + i}))
			}
		},
		"a partner came late": func(d *frameworktest.Driver) {
			frameworktest.Send(d, "right", framework.NewEvent("r0", "k", noon, thing{5}))
			frameworktest.Send(d, "left", framework.NewEvent("l9", "k", noon.Add(time.Second), thing{9}))
		},
	}
	due := noon.Add(time.Minute + 2*time.Nanosecond)
	for _, parks := range [][]framework.Parking{nil, {{}}} {
		for _, name := range slices.Sorted(maps.Keys(meanwhile)) {
			t.Run(fmt.Sprint(name, ", parks=", parks != nil), func(t *testing.T) {
				calm := frameworktest.New(t, frameworktest.Config{}, unpaid(never))
				frameworktest.Send(calm, "left", first)
				calm.Advance(due)
				want, _ := sentBy(t, calm)
				if len(want) != 3 {
					t.Fatalf("without a failure %d are sent: %q", len(want), want)
				}

				broken := true
				d := frameworktest.New(t, frameworktest.Config{}, unpaid(func(string) bool { return broken }, parks...))
				frameworktest.Send(d, "left", first)
				d.Advance(due)
				faults := d.Faults()
				if len(faults) == 0 || len(faults) != 3 && parks == nil {
					t.Fatalf("faults: %q", toldFaults(d))
				}
				for _, f := range faults {
					if len(f.Read) != 1 || len(f.Read[0].Events) != 1 || f.Read[0].Events[0].ID != "e0" {
						t.Errorf("a timer of %s had read %+v", f.Timer, f.Read)
					}
				}
				meanwhile[name](d)
				d.Resubmit(faults...) // in vain
				broken = false
				d.Resubmit(faultsOf(d, framework.ClassPermanent)...)
				d.Resubmit(faults...)
				got, times := sentBy(t, d)
				for id := range got {
					if _, ok := want[id]; !ok {
						delete(got, id) // of what came meanwhile
					} else if n := map[bool]int{false: 2, true: 1}[parks != nil]; times[id] != n {
						t.Errorf("%s was sent %d times, want %d", id, times[id], n)
					}
				}
				sameSent(t, got, want)
				for _, f := range faultsOf(d, framework.ClassLate) {
					if f.Topic == "timer" {
						t.Errorf("a timer is late: %+v", f)
					}
				}
			})
		}
	}
}

// Whatever timers fail, how often they are resubmitted in vain, how far event time has gone on and where the process is
// restarted: what is sent is what would have been sent had nothing failed, and nothing else is late.
func TestTimersThatFailLeaveNoTrace(t *testing.T) {
	fewerChecks(t, "15")
	rapid.Check(t, func(rt *rapid.T) {
		input := arrivals(rt)
		lanes := rapid.SampledFrom([]int{1, 4}).Draw(rt, "lanes")
		calm := frameworktest.New(t, frameworktest.Config{Lanes: lanes}, unpaid(never))
		defer calm.Close()
		for _, a := range input {
			frameworktest.Send(calm, a.topic, a.events...)
		}
		calm.End()
		want, _ := sentBy(rt, calm)

		fails := map[string]bool{}
		broken := func(id string) bool {
			_, pair, _ := strings.Cut(id, " with ") // what an event made is no timer's: it would come late when it is resubmitted
			return pair == "" && fails[id[:strings.LastIndexByte(id, ' ')]]
		}
		for _, topic := range unpaidTopics {
			for i := range 60 {
				for _, what := range []string{"", " last of", " among"} {
					fails[fmt.Sprint(topic, " ", i, what)] = rapid.IntRange(0, 2).Draw(rt, "fails") == 0
				}
			}
		}
		d := frameworktest.New(t, frameworktest.Config{Lanes: lanes}, unpaid(broken))
		defer d.Close()
		again := func() { d.Resubmit(faultsOf(d, framework.ClassPermanent)...) }
		for _, a := range input {
			frameworktest.Send(d, a.topic, a.events...)
			switch rapid.IntRange(0, 9).Draw(rt, "do") {
			case 0:
				d.Restart()
			case 1:
				again()
			case 2:
				for _, id := range slices.Sorted(maps.Keys(fails)) {
					fails[id] = fails[id] && rapid.Bool().Draw(rt, "mended")
				}
				again()
			}
		}
		d.End()
		clear(fails)
		again()
		again()
		got, _ := sentBy(rt, d)
		sameSent(rt, got, want)
		if got, want := len(faultsOf(d, framework.ClassLate)), len(faultsOf(calm, framework.ClassLate)); got != want {
			rt.Errorf("%d are late, want %d", got, want)
		}
	})
}

// Who reads the dead letter of an unpaid order sees the order, and may mend it.
func TestDeadLetterOfTimerHasTheEvent(t *testing.T) {
	broken := true
	d := frameworktest.New(t, frameworktest.Config{}, unpaid(func(id string) bool { return broken && strings.HasPrefix(id, "unpaid") }))
	order := framework.NewEvent("e0", "k", noon, thing{7})
	order.Type, order.Source, order.Metadata = "order", "shop", map[string]string{"trace": "t1"}
	frameworktest.Send(d, "left", order)
	d.Advance(noon.Add(time.Hour))
	letter := string(d.Outputs("p.faults")[0].Value)
	const want = `"read":[{"history":"join.left","from":"2026-06-01T12:00:00Z","to":"2026-06-01T12:00:00Z","events":[` +
		`{"id":"e0","type":"order","source":"shop","time":"2026-06-01T12:00:00Z","metadata":{"trace":"t1"},"data":"{\"n\":7}"}]}]`
	if !strings.Contains(letter, want) {
		t.Errorf("the dead letter is %s\nand has not %s", letter, want)
	}
	broken = false
	f := d.Faults()[0]
	later := noon.Add(time.Second)
	f.Read[0].To = later // somebody adds another event, and does not mind the order
	f.Read[0].Events = []framework.FaultEvent{{ID: "e1", Time: &later, Data: `{"n":9}`}, f.Read[0].Events[0]}
	f.Read[0].Events[1].Data = `{"n":8}`
	d.Resubmit(f)
	out := d.Outputs("unpaid")
	if len(out) != 1 || string(out[0].Value) != `"8 alone"` {
		t.Errorf("sent: %+v", out)
	}
	f.Read[0].Events = f.Read[0].Events[1:]
	f.Read[0].Events[0].Data = `{"n":`
	d.Resubmit(f)
	if faults := d.Faults(); len(faults) != 2 || faults[1].Class != framework.ClassPermanent || !strings.Contains(faults[1].Error, `event "e0"`) ||
		len(faults[1].Read) != 1 || faults[1].Read[0].Events[0].Data != `{"n":` {
		t.Errorf("what cannot be decoded: %+v", faults[1:])
	}
}

// Dead letters without what their timers read, as they once were, are run on what there is: in vain, where that is kept no
// longer. Of several of one timer that which has it is given.
func TestDeadLettersOfTimersWithoutReads(t *testing.T) {
	for _, closed := range []bool{false, true} {
		broken := true
		d := frameworktest.New(t, frameworktest.Config{}, unpaid(func(string) bool { return broken }))
		frameworktest.Send(d, "left", framework.NewEvent("e0", "k", noon, thing{0}))
		d.Advance(noon.Add(time.Minute + 2*time.Nanosecond))
		if closed {
			d.Advance(noon.Add(time.Hour))
		}
		broken = false
		var old []framework.Fault
		for _, f := range d.Faults() {
			f.Read = nil
			old = append(old, f)
		}
		d.Resubmit(old...)
		sent, _ := sentBy(t, d)
		want := map[bool]int{false: 1, true: 0}[closed] // joins and Compact let go of what is in a window right behind its timer
		if late := faultsOf(d, framework.ClassLate); len(sent) != want || len(late) != 3-want {
			t.Errorf("closed=%v: %d are sent, %d late", closed, len(sent), len(late))
		}
		d.Resubmit(append(d.Faults(), old...)...)
		if sent, _ := sentBy(t, d); len(sent) != 3 {
			t.Errorf("closed=%v: with what the timers read %d are sent, want 3: %q", closed, len(sent), toldFaults(d))
		}
	}
}

// Steps behind a timer go on from the state that they have, which a resubmission changes as any event does; one that has closed
// its window tells so, with what the timer had read.
func TestStepsBehindTimersThatAreRunAgain(t *testing.T) {
	broken := true
	p := framework.NewPipeline("p")
	in := framework.From[thing](p, "in")
	alone := processors.LeftJoin(in, processors.Filter(in, "never", func(*framework.Event[thing]) bool { return false }), "join", processors.SameKey,
		processors.Window{Within: time.Minute}, func(l, _ *framework.Event[thing]) (thing, error) { return l.Data, nil })
	check := func(in *framework.Stream[thing], name string, fails int) *framework.Stream[thing] {
		return processors.Map(in, name, func(e *framework.Event[thing]) (thing, error) {
			if broken && e.Data.N == fails {
				return thing{}, errors.New("broken")
			}
			return e.Data, nil
		})
	}
	pairs := processors.SelfJoin(processors.Distinct(alone, "distinct", 24*time.Hour), "pair", nil, processors.Window{Within: 24 * time.Hour},
		func(a, b *framework.Event[thing]) (thing, bool, error) {
			return thing{10*a.Data.N + b.Data.N}, true, nil
		})
	framework.To(check(pairs, "check-pairs", -1), "pairs")
	framework.To(processors.Fold(check(alone, "check", 1), "sum", 0, func(sum int, e *framework.Event[thing]) (int, error) {
		return sum + 1, nil
	}), "sums")
	framework.To(processors.Compact(check(alone, "check-compact", 2), "compact", processors.Tumbling{Size: time.Minute},
		func(w framework.View[thing]) (thing, error) { return w.At(0).Data, nil }), "lasts")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	for i := range 4 { // 1 and 2 fail
		frameworktest.Send(d, "in", framework.NewEvent(fmt.Sprint("e", i), "k", noon.Add(time.Duration(i)*time.Hour), thing{i}))
	}
	d.Advance(noon.Add(4 * time.Hour))
	broken = false
	faults := d.Faults()
	d.Resubmit(faults...)
	d.Resubmit(faults...)
	var got []string
	for _, e := range frameworktest.Outputs[thing](d, "pairs") {
		got = append(got, fmt.Sprintf("%02d", e.Data.N))
	}
	slices.Sort(got)
	expect(t, "pairs, each once", got, "01", "02", "03", "12", "13", "23")
	sums := frameworktest.Outputs[int](d, "sums") // Fold counts what it gets
	if len(sums) != 6 || sums[5].Data != 6 {
		t.Errorf("sums: %d, the last %+v", len(sums), sums[len(sums)-1])
	}
	if last := d.Outputs("lasts"); len(last) != 2 {
		t.Errorf("%d are the last of their minute, want those of 0 and 3", len(last))
	}
	late := faultsOf(d, framework.ClassLate)
	for _, f := range late {
		if f.Step != "compact" || f.Timer != "join" || len(f.Read) != 1 || len(f.Read[0].Events) != 1 || f.Part == "" {
			t.Errorf("late: %+v", f)
		}
	}
	if len(faults) != 2 || len(late) != 4 {
		t.Errorf("%d faults, and %d late, want 2 and 4: %q", len(faults), len(late), toldFaults(d))
	}
}
