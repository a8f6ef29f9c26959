package framework_test

import (
	"cmp"
	"errors"
	"flag"
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

// fragile is a pipeline that parks, over steps of all kinds that keep state, and that fails for the events and timers
// that broken says, as long as it does.
//
//	left, right → may fail → fold → sums
//	                       → outer join (timers) → pairs
//	                       → collect → expire (timers that may fail) → expired
//	                       → distinct → compact (timers) → lasts
func fragile(broken func(id string) bool, park ...framework.Parking) *framework.Pipeline {
	p := framework.NewPipeline("p")
	for _, c := range park {
		p.Park(c)
	}
	check := func(in *framework.Stream[thing], name string) *framework.Stream[thing] {
		return processors.Map(in, name, func(e *framework.Event[thing]) (thing, error) { return e.Data, nil })
	}
	late := framework.Source[thing]{OutOfOrder: 20 * time.Second}
	left := check(framework.From(p, "left", late), "left-checked")
	right := check(framework.From(p, "right", late), "right-checked")
	framework.To(processors.Fold(left, "fold", "", func(s string, e *framework.Event[thing]) (string, error) {
		return fmt.Sprint(s, " ", e.Data.N), nil
	}), "sums")
	same := func(thing) string { return "same" }
	pairs := processors.OuterJoin(left, right, "join", processors.On(same, same), processors.Window{Within: 30 * time.Second, AllowedLateness: 10 * time.Second, MaxCount: 2},
		func(l, r *framework.Event[thing]) (string, error) {
			switch {
			case l == nil:
				return fmt.Sprint("- ", r.Data.N), nil
			case r == nil:
				return fmt.Sprint(l.Data.N, " -"), nil
			}
			return fmt.Sprint(l.Data.N, " ", r.Data.N), nil
		})
	framework.To(pairs, "pairs")
	kept := processors.Collect(left, "kept", processors.CollectConfig{Retain: time.Minute})
	framework.To(processors.Expire(kept, "expire", 40*time.Second,
		func(h framework.View[thing], e *framework.Event[thing]) (string, bool, error) {
			if broken("timer " + fmt.Sprint(e.Data.N)) {
				return "", false, errors.New("broken timer")
			}
			return fmt.Sprint(e.Data.N, " of ", h.Len()), true, nil
		}), "expired")
	lasts := processors.Compact(processors.Distinct(right, "distinct", time.Minute), "compact",
		processors.Tumbling{Size: 25 * time.Second, AllowedLateness: 5 * time.Second},
		func(h framework.View[thing]) (string, error) { return fmt.Sprint("last of ", h.Len()), nil })
	framework.To(lasts, "lasts")
	// The last step fails, so that what the others did has to be taken back.
	for _, in := range []*framework.Stream[thing]{left, right} {
		name := map[bool]string{true: "left", false: "right"}[in == left]
		processors.Peek(in, name+"-may-fail", func(e *framework.Event[thing]) {
			if broken(fmt.Sprint(name, " ", e.Data.N)) {
				panic("broken")
			}
		})
	}
	return p
}

var fragileTopics = []string{"sums", "pairs", "expired", "lasts"}

// seenBy is what a pipeline has sent: for each topic and key, what and under which id.
func seenBy(d *frameworktest.Driver) map[string][]string {
	all := map[string][]string{}
	for _, topic := range fragileTopics {
		for _, r := range d.Outputs(topic) {
			at := topic + " " + r.Key
			all[at] = append(all[at], fmt.Sprintf("%s %s %s", r.ID, r.Time.Format(time.TimeOnly), r.Value))
		}
	}
	return all
}

// arrival is a batch of one topic.
type arrival struct {
	topic  string
	events []*framework.Event[thing]
}

func arrivals(t *rapid.T) (all []arrival) {
	for n, i := rapid.IntRange(1, 60).Draw(t, "events"), 0; i < n; {
		batch := arrival{topic: rapid.SampledFrom([]string{"left", "right"}).Draw(t, "topic")}
		for end := min(n, i+rapid.SampledFrom([]int{1, 1, 1, 2, 5, 40}).Draw(t, "batch")); i < end; i++ {
			at := noon.Add(time.Duration(10*i+rapid.IntRange(-35, 20).Draw(t, "offset")) * time.Second)
			key := fmt.Sprint("k", rapid.IntRange(0, 3).Draw(t, "key"))
			batch.events = append(batch.events, framework.NewEvent(fmt.Sprint("e", i), key, at, thing{i}))
		}
		all = append(all, batch)
	}
	return all
}

// What a parked key causes once it has been resubmitted is what it would have caused had nothing ever failed: the same
// outputs with the same ids, of each key in the same order, whatever had failed, how often it was resubmitted in vain,
// how far event time had gone on, and where the process was restarted.
func TestParkingLeavesNoTrace(t *testing.T) {
	fewerChecks(t, "20")
	rapid.Check(t, func(rt *rapid.T) {
		input := arrivals(rt)
		never := func(string) bool { return false }
		lanes := rapid.SampledFrom([]int{1, 4}).Draw(rt, "lanes")
		end := rapid.Bool().Draw(rt, "resubmit after the end")
		feed := func(d *frameworktest.Driver, between func()) {
			for _, a := range input {
				frameworktest.Send(d, a.topic, a.events...)
				between()
			}
		}
		calm := frameworktest.New(t, frameworktest.Config{Lanes: lanes}, fragile(never))
		defer calm.Close()
		feed(calm, func() {})
		calm.End()
		want, wantLate := seenBy(calm), faultsOf(calm, framework.ClassLate)

		fails := map[string]bool{}
		for _, a := range input {
			for _, e := range a.events {
				if rapid.IntRange(0, 9).Draw(rt, "fails") == 0 {
					fails[fmt.Sprint(a.topic, " ", e.Data.N)] = true
				}
				if rapid.IntRange(0, 9).Draw(rt, "timer fails") == 0 {
					fails[fmt.Sprint("timer ", e.Data.N)] = true
				}
			}
		}
		d := frameworktest.New(t, frameworktest.Config{Lanes: lanes}, fragile(func(id string) bool { return fails[id] },
			framework.Parking{Hold: 1000 * time.Hour}))
		defer d.Close()
		again := func() { d.Resubmit(faultsOf(d, framework.ClassPermanent)...) }
		feed(d, func() {
			switch rapid.IntRange(0, 12).Draw(rt, "do") {
			case 0:
				d.Restart()
			case 1:
				again()
			case 2: // some are mended
				for _, id := range slices.Sorted(maps.Keys(fails)) {
					if rapid.Bool().Draw(rt, "mended") {
						delete(fails, id)
					}
				}
				again()
			}
		})
		if end {
			d.End()
		}
		clear(fails)
		again()
		if !end {
			d.End()
		}
		if parked := d.Parked(); len(parked) > 0 {
			rt.Fatalf("still parked: %+v", parked)
		}
		got := seenBy(d)
		for _, at := range slices.Sorted(maps.Keys(want)) {
			if slices.Equal(got[at], want[at]) {
				continue
			}
			rt.Errorf("%s:\n  got  %s\n  want %s", at, strings.Join(got[at], "\n       "), strings.Join(want[at], "\n       "))
		}
		for at := range got {
			if want[at] == nil {
				rt.Errorf("%s: %q, want nothing", at, got[at])
			}
		}
		gotLate := faultsOf(d, framework.ClassLate)
		byID := func(a, b framework.Fault) int { return cmp.Compare(a.Step+a.Event.ID, b.Step+b.Event.ID) }
		slices.SortFunc(gotLate, byID)
		slices.SortFunc(wantLate, byID)
		if !slices.EqualFunc(gotLate, wantLate, func(a, b framework.Fault) bool { return byID(a, b) == 0 }) {
			rt.Errorf("late: %d, want %d", len(gotLate), len(wantLate))
		}
		unique := map[string]bool{}
		for _, r := range d.Outputs("p.faults") {
			if unique[r.ID] {
				rt.Errorf("two faults with the id %s: %s", r.ID, r.Value)
			}
			unique[r.ID] = true
		}
	})
}

// fewerChecks is for properties that open stores on disk. Give -rapid.checks for more.
func fewerChecks(t *testing.T, n string) {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if was := flag.Lookup("rapid.checks").Value; !given {
		old := was.String()
		t.Cleanup(func() { _ = was.Set(old) })
		_ = was.Set(n)
	}
}

func faultsOf(d *frameworktest.Driver, class framework.Class) (all []framework.Fault) {
	for _, f := range d.Faults() {
		if f.Class == class {
			all = append(all, f)
		}
	}
	return all
}
