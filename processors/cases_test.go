package processors_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
	"github.com/millrace/millrace/processors"
)

// The cases of the pattern that Millrace follows, by their numbers in its list; 14 and 15 are other steps'.

// wide is more than all times of a test are apart: no event is late.
const wide = 24 * time.Hour

func source(c framework.Source[item]) framework.Source[item] { return c }

// disordered is a source whose events come in any order.
var disordered = source(framework.Source[item]{OutOfOrder: wide})

// history adds to in a step that emits what a Collected holds after each event.
func history(c *processors.Collected[item], name string) *framework.Stream[string] {
	return processors.Evaluate(c, name, func(h framework.View[item], e *framework.Event[item]) ([]processors.Emission[string], error) {
		return processors.Emit(contents(h, e)), nil
	})
}

// An event is stored once, under its own key; one of another type is not stored.
func TestCase01CollectByDefaultKey(t *testing.T) {
	p := framework.NewPipeline("p")
	wanted := processors.Select(framework.From[item](p, "in"), "wanted", processors.Type("order.placed"))
	framework.To(history(processors.Collect(wanted, "kept", processors.CollectConfig{Retain: time.Hour}), "look"), "out")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	frameworktest.Send(d, "in", typed("order.placed", event("a", "k1", 0)), typed("order.paid", event("b", "k1", 1)),
		typed("order.placed", event("c", "k2", 2)), typed("order.placed", event("d", "k1", 3)))
	equal(t, "histories", inOrder(d, "out"), list("a", "c", "a d"))
}

// An event is stored by a value of its data, or by a computed key; without one it is a fault.
func TestCase02CollectByAnotherKey(t *testing.T) {
	for name, key := range map[string]func(*framework.Event[item]) string{
		"path":     func(e *framework.Event[item]) string { return e.Data.Group },
		"computed": func(e *framework.Event[item]) string { return strings.TrimPrefix(e.Key+"|"+e.Data.Group, e.Key+"|") },
	} {
		t.Run(name, func(t *testing.T) {
			p := framework.NewPipeline("p")
			keyed := processors.ReKey(framework.From[item](p, "in"), "by-group", key)
			framework.To(history(processors.Collect(keyed, "kept", processors.CollectConfig{Retain: time.Hour}), "look"), "out")
			d := frameworktest.New(t, frameworktest.Config{}, p)
			frameworktest.Send(d, "in", event("a", "k1", 0, "g"), event("b", "k2", 1, "g"), event("c", "k3", 2))
			equal(t, "histories", inOrder(d, "out"), list("a", "a b"))
			if faults := d.Faults(); len(faults) != 1 || faults[0].Event.ID != "c" || faults[0].Step != "by-group" {
				t.Errorf("faults %+v, want one of c at by-group", faults)
			}
		})
	}
}

// The same event again, in the same batch, in another, after a restart, is stored once and emits nothing.
func TestCase03Duplicate(t *testing.T) {
	p := framework.NewPipeline("p")
	kept := processors.Collect(framework.From[item](p, "in"), "kept", processors.CollectConfig{Retain: time.Hour})
	framework.To(history(kept, "look"), "out")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	frameworktest.Send(d, "in", event("a", "k", 0), event("a", "k", 0))
	frameworktest.Send(d, "in", event("a", "k", 0))
	d.Restart()
	frameworktest.Send(d, "in", event("a", "k", 0), event("b", "k", 1))
	equal(t, "histories", inOrder(d, "out"), list("a", "a b"))
	equal(t, "duplicates", d.Counts("kept").Duplicates, 3)
	equal(t, "faults", len(d.Faults()), 0)
}

// An event stored again under a second key is in that history, and rules of other families do not see it.
func TestCase04Correlate(t *testing.T) {
	p := framework.NewPipeline("p")
	in := framework.From[item](p, "in")
	framework.To(history(processors.Collect(in, "kept-own", processors.CollectConfig{Retain: time.Hour}), "look-own"), "own")
	parent := processors.ReKey(in, "by-parent", func(e *framework.Event[item]) string { return e.Data.Group })
	framework.To(history(processors.Collect(parent, "kept-children", processors.CollectConfig{Retain: time.Hour}), "look-children"), "children")
	odd := processors.Filter(parent, "odd", func(e *framework.Event[item]) bool { return e.Data.Name != "a" })
	framework.To(history(processors.Collect(odd, "kept-others", processors.CollectConfig{Retain: time.Hour}), "look-others"), "others")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	frameworktest.Send(d, "in", event("a", "k1", 0, "k2"), event("b", "k2", 1, "k2"))
	equal(t, "own keys", inOrder(d, "own"), list("a", "b"))
	equal(t, "by the second key", inOrder(d, "children"), list("a", "a b"))
	equal(t, "another family", inOrder(d, "others"), list("b"))
}

// A plain emission replaces the type and records its trigger; several of one evaluation differ in id and keep
// their order; all ids are the same in another run.
func TestCase05Emit(t *testing.T) {
	run := func() []framework.Record {
		p := framework.NewPipeline("p")
		kept := processors.Collect(framework.From[item](p, "in"), "kept", processors.CollectConfig{Retain: time.Hour})
		framework.To(caused(t, "a", processors.Evaluate(kept, "emit",
			func(_ framework.View[item], e *framework.Event[item]) ([]processors.Emission[string], error) {
				return list(
					processors.Emission[string]{Data: "1", Type: "first"},
					processors.Emission[string]{Data: "2", Triggers: processors.Triggers(e)},
					processors.Emission[string]{Data: "3", Triggers: processors.Triggers(e)},
					processors.Emission[string]{Data: "4"},
				), nil
			})), "out")
		d := frameworktest.New(t, frameworktest.Config{}, p)
		frameworktest.Send(d, "in", typed("order.placed", event("a", "k", 0)))
		equal(t, "data", inOrder(d, "out"), list("1", "2", "3", "4"))
		return d.Outputs("out")
	}
	first, second := run(), run()
	seen := map[string]bool{}
	for i, r := range first {
		equal(t, "id of another run", second[i].ID, r.ID)
		equal(t, "time", r.Time, at(0))
		if r.Type == "order.placed" {
			t.Errorf("%s has the type of its trigger", r.Value)
		}
		seen[r.ID] = true
	}
	equal(t, "type", first[0].Type, "first")
	equal(t, "ids", len(seen), 4)
}

// An evaluation names two of the events in the history: those are the triggers, and it is emitted once though
// every later evaluation names them again.
func TestCase06Triggers(t *testing.T) {
	p := framework.NewPipeline("p")
	kept := processors.Collect(framework.From[item](p, "in", disordered), "kept", processors.CollectConfig{Retain: time.Hour})
	framework.To(caused(t, "a b", processors.Evaluate(kept, "two",
		func(h framework.View[item], _ *framework.Event[item]) ([]processors.Emission[string], error) {
			if h.Len() < 3 {
				return nil, nil
			}
			return processors.EmitFor("two", h.At(1), h.At(0)), nil
		})), "out")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	frameworktest.Send(d, "in", event("a", "k", 0), event("b", "k", 1), event("c", "k", 2), event("d", "k", 3))
	d.Restart()
	frameworktest.Send(d, "in", event("e", "k", 4))
	out := d.Outputs("out")
	if len(out) != 1 || out[0].Time != at(1) {
		t.Fatalf("outputs %+v, want one at 12:01", out)
	}
}

// caused checks that events have these causes.
func caused(t *testing.T, want string, in *framework.Stream[string]) *framework.Stream[string] {
	return processors.Peek(in, "causes", func(e *framework.Event[string]) {
		causes := slices.Clone(e.Causes())
		slices.Sort(causes)
		equal(t, "causes", strings.Join(causes, " "), want)
	})
}

// A, B and C in any order, in one batch or three, with restarts between: one emission with the same id.
func TestCase07AllHere(t *testing.T) {
	all := list(event("A", "k", 0), event("B", "k", 2), event("C", "k", 1))
	var first []string
	for _, order := range [][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		for _, cut := range []string{"one batch", "three batches", "restarts"} {
			t.Run(fmt.Sprint(order, cut), func(t *testing.T) {
				p := framework.NewPipeline("p")
				kept := processors.Collect(framework.From[item](p, "in", disordered), "kept", processors.CollectConfig{Retain: time.Hour})
				framework.To(processors.Evaluate(kept, "complete", complete), "out")
				d := frameworktest.New(t, frameworktest.Config{}, p)
				sent := list(all[order[0]], all[order[1]], all[order[2]], event("D", "k", 3))
				if cut == "one batch" {
					frameworktest.Send(d, "in", sent...)
				} else {
					for _, e := range sent {
						frameworktest.Send(d, "in", e)
						if cut == "restarts" {
							d.Restart()
						}
					}
				}
				out := d.Outputs("out")
				if len(out) != 1 || out[0].Time != at(2) {
					t.Fatalf("outputs %+v, want one at 12:02", out)
				}
				if first == nil {
					first = ids(d, "out")
				}
				equal(t, "ids", ids(d, "out"), first)
			})
		}
	}
}

// complete emits when A, B and C are in the history.
func complete(h framework.View[item], _ *framework.Event[item]) ([]processors.Emission[string], error) {
	found := map[string]*framework.Event[item]{}
	for e := range h.All {
		found[e.Data.Name] = e
	}
	a, b, c := found["A"], found["B"], found["C"]
	if a == nil || b == nil || c == nil {
		return nil, nil
	}
	return processors.EmitFor("complete", a, b, c), nil
}

// joined is a pipeline with a join of "left" and "right" within ten minutes.
func joined(kind string, window processors.Window) *framework.Pipeline {
	p := framework.NewPipeline("p")
	l, r := framework.From[item](p, "left"), framework.From[item](p, "right")
	join := map[string]func(*framework.Stream[item], *framework.Stream[item], string, processors.Match[item, item], processors.Window,
		func(*framework.Event[item], *framework.Event[item]) (string, error)) *framework.Stream[string]{
		"inner": processors.Join[item, item, string],
		"left":  processors.LeftJoin[item, item, string],
		"outer": processors.OuterJoin[item, item, string],
	}[kind]
	framework.To(join(l, r, "join", processors.SameKey, window, text), "out")
	return p
}

// Left then right and right then left: inside the window, at its edge, after it, late within the allowed
// lateness, too late.
func TestCase08Windows(t *testing.T) {
	ten := processors.Window{Within: 10 * time.Minute}
	lenient := processors.Window{Within: 10 * time.Minute, AllowedLateness: 5 * time.Minute}
	oneWay := processors.Window{Before: time.Minute, After: 10 * time.Minute}
	for _, c := range []struct {
		name        string
		window      processors.Window
		left, right float64 // times of the two
		watermark   float64 // before the second comes
		paired      bool
		late        bool
	}{
		{"inside", ten, 0, 5, 0, true, false},
		{"right is earlier", ten, 5, 0, 0, true, false},
		{"at the edge", ten, 0, 10, 0, true, false},
		{"at the other edge", ten, 10, 0, 0, true, false},
		{"after", ten, 0, 10.001, 0, false, false},
		{"before", ten, 10.001, 0, 0, false, false},
		{"one way, inside", oneWay, 0, 10, 0, true, false},
		{"one way, before", oneWay, 2, 0, 0, false, false},
		{"late, window open", ten, 10, 5, 10, true, false},
		{"late, last moment", ten, 10, 0, 10, true, false},
		{"late, allowed", lenient, 10, 5, 15, true, false},
		{"late, allowed, last moment", lenient, 10, 0, 15, true, false},
		{"partner gone, own window open", ten, 0, 4, 12, false, false},
		{"too late", ten, 0, 0, 10.001, false, true},
		{"too late, lenient", lenient, 0, 0, 15.001, false, true},
	} {
		for _, rightFirst := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,rightFirst=%v", c.name, rightFirst), func(t *testing.T) {
				lt, rt := c.left, c.right
				window := c.window
				if rightFirst && strings.HasPrefix(c.name, "late") || c.name == "partner gone, own window open" && rightFirst {
					lt, rt = rt, lt // the second to come is the late one
				}
				d := frameworktest.New(t, frameworktest.Config{}, joined("inner", window))
				send := func(right bool) {
					if right {
						frameworktest.Send(d, "right", event("r", "k", rt))
					} else {
						frameworktest.Send(d, "left", event("l", "k", lt))
					}
				}
				send(rightFirst)
				if c.watermark > 0 {
					d.Advance(at(c.watermark))
				}
				send(!rightFirst)
				want := []string(nil)
				if c.paired {
					want = list("l+r")
				}
				equal(t, "pairs", names(d, "out"), want)
				for _, r := range d.Outputs("out") {
					equal(t, "time", r.Time, at(max(lt, rt)))
				}
				faults := d.Faults()
				if c.late != (len(faults) == 1 && faults[0].Class == framework.ClassLate) || !c.late && len(faults) > 0 {
					t.Errorf("faults %+v, want late: %v", faults, c.late)
				}
			})
		}
	}
}

// Two lefts and one right, one left and two rights, a stream with itself: each pair once.
func TestCase09EachPairOnce(t *testing.T) {
	window := processors.Window{Within: 10 * time.Minute}
	t.Run("two lefts", func(t *testing.T) {
		d := frameworktest.New(t, frameworktest.Config{}, joined("inner", window))
		frameworktest.Send(d, "left", event("l1", "k", 0), event("l2", "k", 1))
		frameworktest.Send(d, "right", event("r", "k", 2), event("r", "k", 2))
		equal(t, "pairs", names(d, "out"), list("l1+r", "l2+r"))
	})
	t.Run("two rights", func(t *testing.T) {
		d := frameworktest.New(t, frameworktest.Config{}, joined("inner", window))
		frameworktest.Send(d, "right", event("r1", "k", 0), event("r2", "k", 1))
		frameworktest.Send(d, "left", event("l", "k", 2), event("l", "k", 2))
		equal(t, "pairs", names(d, "out"), list("l+r1", "l+r2"))
	})
	t.Run("same ids on both sides", func(t *testing.T) {
		d := frameworktest.New(t, frameworktest.Config{}, joined("outer", window))
		frameworktest.Send(d, "left", event("1", "k", 0), event("2", "k", 1))
		frameworktest.Send(d, "right", event("1", "k", 2), event("2", "k", 3))
		equal(t, "pairs", names(d, "out"), list("1+1", "1+2", "2+1", "2+2"))
		frameworktest.Send(d, "left", event("3", "k", 60))
		frameworktest.Send(d, "right", event("3", "k", 120))
		d.End()
		equal(t, "pairs", names(d, "out"), list("-+3", "1+1", "1+2", "2+1", "2+2", "3+-"))
		equal(t, "ids", len(slices.Compact(ids(d, "out"))), 6)
	})
	t.Run("self", func(t *testing.T) {
		p := framework.NewPipeline("p")
		framework.To(processors.SelfJoin(framework.From[item](p, "in", disordered), "near", item.group, window, textOf), "out")
		d := frameworktest.New(t, frameworktest.Config{}, p)
		frameworktest.Send(d, "in", event("c", "k", 2, "g"), event("a", "k", 0, "g"), event("b", "k", 0, "g"),
			event("far", "k", 10.001, "g"), event("other", "k", 1, "h"), event("else", "k2", 1, "g"), event("a", "k", 0, "g"))
		equal(t, "pairs", names(d, "out"), list("a+b", "a+c", "b+c", "c+far"))
	})
}

func textOf(earlier, later *framework.Event[item]) (string, bool, error) {
	s, err := text(earlier, later)
	return s, true, err
}

// An expression that fails on one event makes a fault of it; the rest of its batch and the other pipeline go on.
func TestCase10ExpressionFails(t *testing.T) {
	build := func(name string, poison string) *framework.Pipeline {
		p := framework.NewPipeline(name)
		kept := processors.Collect(framework.From[item](p, "in"), "kept", processors.CollectConfig{Retain: time.Hour})
		framework.To(processors.Evaluate(kept, "look",
			func(h framework.View[item], e *framework.Event[item]) ([]processors.Emission[string], error) {
				if e.Data.Name == poison {
					return nil, errors.New("cannot say")
				}
				return processors.Emit(contents(h, e)), nil
			}), name+".out")
		return p
	}
	d := frameworktest.New(t, frameworktest.Config{}, build("one", "b"), build("two", ""))
	frameworktest.Send(d, "in", event("a", "k", 0), event("b", "k", 1), event("c", "k", 2))
	equal(t, "histories", inOrder(d, "one.out"), list("a", "a c"))
	equal(t, "histories", inOrder(d, "two.out"), list("a", "a b", "a b c"))
	if f := d.Faults(); len(f) != 1 || f[0].Pipeline != "one" || f[0].Step != "look" || f[0].Event.ID != "b" || !strings.Contains(f[0].Error, "cannot say") {
		t.Errorf("faults %+v, want one of b at one/look", f)
	}
}

// expiring emits for each A that has no B within ten minutes.
func expiring(t *testing.T) *framework.Pipeline {
	p := framework.NewPipeline("p")
	kept := processors.Collect(framework.From[item](p, "in"), "kept", processors.CollectConfig{Retain: time.Hour})
	framework.To(caused(t, "A", processors.Expire(kept, "unanswered", 10*time.Minute,
		func(h framework.View[item], e *framework.Event[item]) (string, bool, error) {
			if !strings.HasPrefix(e.Data.Name, "A") {
				return "", false, nil
			}
			for other := range h.All {
				if strings.HasPrefix(other.Data.Name, "B") && !other.Time.Before(e.Time) {
					return "", false, nil
				}
			}
			return e.Data.Name + " in vain", true, nil
		})), "out")
	return p
}

// A partner before the time is up: no expiry. None, or one after it: an expiry, once, at the time when it was
// due, also if the process was down then.
func TestCase11Expiry(t *testing.T) {
	for name, c := range map[string]struct {
		answer float64 // when B comes; 0 for never
		want   []string
	}{
		"answered": {5, nil}, "at the edge": {10, nil}, "after": {10.001, list("A in vain")}, "never": {0, list("A in vain")},
	} {
		t.Run(name, func(t *testing.T) {
			d := frameworktest.New(t, frameworktest.Config{}, expiring(t))
			frameworktest.Send(d, "in", event("A", "k", 0), event("B", "k2", 1))
			if c.answer > 0 {
				frameworktest.Send(d, "in", event("B", "k", c.answer))
			} else {
				d.Advance(at(10))
				equal(t, "at the edge", names(d, "out"), nil)
				d.Restart() // down when it falls due
			}
			d.Advance(at(30))
			d.Restart()
			d.Advance(at(120))
			equal(t, "expiries", names(d, "out"), c.want)
			for _, r := range d.Outputs("out") {
				equal(t, "time", r.Time, at(10))
			}
		})
	}
}

// Of each key and window of time the last event goes on, and finds the earlier ones in order; wherever batches
// are cut.
func TestCase12Compaction(t *testing.T) {
	for _, batch := range []int{0, 1, 2} {
		p := framework.NewPipeline("p")
		in := framework.From[item](p, "in", framework.Source[item]{OutOfOrder: 2 * time.Minute})
		framework.To(processors.Compact(in, "newest", processors.Tumbling{Size: 10 * time.Minute},
			func(h framework.View[item]) (string, error) { return contents(h, nil), nil }), "out")
		d := frameworktest.New(t, frameworktest.Config{BatchEvents: batch}, p)
		frameworktest.Send(d, "in", event("b", "k", 1), event("a", "k", 0), event("c", "k2", 5), event("e", "k", 10), event("d", "k", 9),
			event("d", "k", 9), event("f", "k", 12.001), event("g", "k", 9.9))
		equal(t, "before the second window closes", names(d, "out"), list("a b d", "c"))
		if f := d.Faults(); len(f) != 1 || f[0].Class != framework.ClassLate || f[0].Event.ID != "g" {
			t.Errorf("faults %+v, want g, late", f)
		}
		d.Restart()
		d.End()
		equal(t, "all", names(d, "out"), list("a b d", "c", "e f"))
		times := map[string]time.Time{}
		for _, e := range frameworktest.Outputs[string](d, "out") {
			times[e.Data] = e.Time
		}
		equal(t, "times", times, map[string]time.Time{"a b d": at(9), "c": at(5), "e f": at(12.001)})
		equal(t, "duplicates", d.Counts("newest").Duplicates, 1)
	}
}

// One event becomes many, with ids that are the same in another run; the fault of one part names it.
func TestCase13Split(t *testing.T) {
	run := func() (*frameworktest.Driver, []string) {
		p := framework.NewPipeline("p")
		parts := processors.Split(framework.From[item](p, "in"), "letters", func(e *framework.Event[item]) ([]string, error) {
			if e.Data.Name == "bad" {
				return nil, errors.New("cannot split")
			}
			return strings.Split(e.Data.Name, ""), nil
		})
		framework.To(processors.Map(parts, "upper", func(e *framework.Event[string]) (string, error) {
			if e.Data == "x" {
				return "", errors.New("no x")
			}
			return strings.ToUpper(e.Data), nil
		}), "out")
		d := frameworktest.New(t, frameworktest.Config{}, p)
		frameworktest.Send(d, "in", event("axb", "k", 0), event("bad", "k", 1), event("aa", "k", 2))
		return d, ids(d, "out")
	}
	d, first := run()
	_, second := run()
	equal(t, "parts", inOrder(d, "out"), list("A", "B", "A", "A"))
	equal(t, "ids of another run", second, first)
	equal(t, "ids", len(slices.Compact(first)), 4)
	f := d.Faults()
	if len(f) != 2 || f[0].Event.ID != "axb" || f[0].Part == "" || f[0].Step != "upper" || f[1].Event.ID != "bad" || f[1].Part != "" || f[1].Step != "letters" {
		t.Errorf("faults %+v, want a part of axb at upper, and bad at letters", f)
	}
}

// What comes from the service itself is not listened to; what has no source passes.
func TestCase16OwnSource(t *testing.T) {
	p := framework.NewPipeline("p")
	in := framework.From[item](p, "in", source(framework.Source[item]{IgnoreSource: "me"}))
	framework.To(processors.MapData(in, "name", func(i item) string { return i.Name }), "out")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	mine, other := event("mine", "k", 0), event("other", "k", 1)
	mine.Source, other.Source = "me", "you"
	frameworktest.Send(d, "in", mine, other, event("none", "k", 2))
	equal(t, "outputs", inOrder(d, "out"), list("other", "none"))
	equal(t, "faults", len(d.Faults()), 0)
}

// Poison in one of two pipelines that read the same source: the other is complete, and there is one fault.
func TestCase17Poison(t *testing.T) {
	build := func(name, poison string) *framework.Pipeline {
		p := framework.NewPipeline(name)
		framework.To(processors.MapData(framework.From[item](p, "in"), "name", func(i item) string {
			if i.Name == poison {
				panic("poison")
			}
			return i.Name
		}), name+".out")
		return p
	}
	d := frameworktest.New(t, frameworktest.Config{Lanes: 2}, build("one", "e7"), build("two", ""))
	var all []*framework.Event[item]
	for i := range 100 {
		all = append(all, event(fmt.Sprint("e", i), fmt.Sprint("k", i%10), float64(i)))
	}
	frameworktest.Send(d, "in", all...)
	equal(t, "of the pipeline with the poison", len(names(d, "one.out")), 99)
	equal(t, "of the other", len(names(d, "two.out")), 100)
	if f := d.Faults(); len(f) != 1 || f[0].Event.ID != "e7" || f[0].Pipeline != "one" {
		t.Errorf("%d faults, %+v; want one of e7", len(f), f)
	}
}

// 10,000 events of 100 keys with steps that take various times: outputs of a key are in the order of its inputs.
func TestCase18OrderOfKeys(t *testing.T) {
	p := framework.NewPipeline("p")
	busy := processors.Peek(framework.From[item](p, "in"), "busy", func(*framework.Event[item]) {
		for range rand.IntN(3000) {
			_ = rand.Int()
		}
	})
	counted := processors.Fold(busy, "counted", 0, func(n int, e *framework.Event[item]) (int, error) {
		if n != e.Data.Value {
			return 0, fmt.Errorf("number %d comes as %d", e.Data.Value, n)
		}
		return n + 1, nil
	})
	framework.To(counted, "out")
	d := frameworktest.New(t, frameworktest.Config{Lanes: 4, BatchEvents: 777, Partitions: 2}, p)
	var all []*framework.Event[item]
	for i := range 10_000 {
		e := event(fmt.Sprint("e", i), fmt.Sprint("k", i%100), float64(i)/100)
		e.Data.Value = i / 100
		all = append(all, e)
	}
	frameworktest.Send(d, "in", all...)
	last := map[string]int{}
	for _, e := range frameworktest.Outputs[int](d, "out") {
		if e.Data != last[e.Key]+1 {
			t.Fatalf("key %s: %d after %d", e.Key, e.Data, last[e.Key])
		}
		last[e.Key] = e.Data
	}
	equal(t, "outputs", len(d.Outputs("out")), 10_000)
	equal(t, "faults", len(d.Faults()), 0)
}

// The same events of two topics, interleaved in other ways, with other lanes and batches: the same outputs.
func TestCase19Determinism(t *testing.T) {
	run := func(interleave, batch, lanes int) []string {
		p := framework.NewPipeline("p")
		l := framework.From[item](p, "left", framework.Source[item]{OutOfOrder: time.Minute})
		r := framework.From[item](p, "right", framework.Source[item]{OutOfOrder: time.Minute})
		window := processors.Window{Within: 3 * time.Minute, AllowedLateness: time.Minute}
		pairs := processors.OuterJoin(l, r, "join", processors.On(item.group, item.group), window, text)
		named := processors.MapData(pairs, "named", func(s string) item { return item{Name: s} })
		kept := processors.Collect(processors.Merge("all", named, l), "kept", processors.CollectConfig{Retain: 20 * time.Minute})
		framework.To(processors.Evaluate(kept, "neighbours",
			func(h framework.View[item], _ *framework.Event[item]) ([]processors.Emission[string], error) {
				var all []processors.Emission[string]
				for i := range h.Len() {
					for j := range i {
						if h.At(i).Time.Sub(h.At(j).Time) <= time.Minute {
							all = append(all, processors.EmitFor(h.At(j).Data.Name+","+h.At(i).Data.Name, h.At(i), h.At(j))...)
						}
					}
				}
				return all, nil
			}), "out")
		d := frameworktest.New(t, frameworktest.Config{Lanes: lanes, BatchEvents: batch, Partitions: 2}, p)
		var left, right []*framework.Event[item]
		for i := range 200 {
			key, group := fmt.Sprint("k", i%7), fmt.Sprint("g", i%3)
			left = append(left, event(fmt.Sprint("l", i), key, float64(i)/4, group))
			right = append(right, event(fmt.Sprint("r", i), key, float64(i)/3+1, group))
		}
		for len(left)+len(right) > 0 {
			n, m := min(interleave, len(left)), min(2*interleave+1, len(right))
			frameworktest.Send(d, "left", left[:n]...)
			frameworktest.Send(d, "right", right[:m]...)
			left, right = left[n:], right[m:]
		}
		d.End()
		equal(t, "faults", len(d.Faults()), 0)
		return ids(d, "out")
	}
	want := run(200, 0, 1)
	if len(want) < 100 || len(slices.Compact(slices.Clone(want))) != len(want) {
		t.Fatalf("%d outputs, %d ids", len(want), len(slices.Compact(slices.Clone(want))))
	}
	for _, c := range [][3]int{{1, 1, 1}, {7, 3, 4}, {50, 0, 2}, {23, 10, 4}} {
		equal(t, fmt.Sprint("outputs with interleaving, batch, lanes ", c), run(c[0], c[1], c[2]), want)
	}
}

// A history with a bound has the newest N; a join of the same stream sees all that its window promises.
func TestCase20CountBound(t *testing.T) {
	p := framework.NewPipeline("p")
	in := framework.From[item](p, "in", disordered)
	framework.To(history(processors.Collect(in, "kept", processors.CollectConfig{Retain: time.Hour, MaxCount: 3}), "look"), "out")
	framework.To(processors.SelfJoin(in, "near", nil, processors.Window{Within: time.Hour}, textOf), "pairs")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	for i := range 10 {
		frameworktest.Send(d, "in", event(fmt.Sprint("e", i), "k", float64(i)))
	}
	out := inOrder(d, "out")
	equal(t, "the last history", out[len(out)-1], "e7 e8 e9")
	equal(t, "pairs", len(names(d, "pairs")), 45)
	frameworktest.Send(d, "in", event("old", "k", 1.5)) // older than the three that there is room for
	equal(t, "the last history", inOrder(d, "out")[len(out)-1], "e7 e8 e9")
	equal(t, "outputs", len(d.Outputs("out")), len(out))
	if f := d.Faults(); len(f) != 1 || f[0].Class != framework.ClassLate || f[0].Step != "kept" {
		t.Errorf("faults %+v, want old at kept, late", f)
	}
	equal(t, "pairs", len(names(d, "pairs")), 55)
}

// A bound on a join: the newest stay, what is pushed out is counted and, when it has no partner, is passed on as alone by
// those joins that pass on such events; each event once, over restarts.
func TestCase20BoundsOfJoins(t *testing.T) {
	window := processors.Window{Within: time.Hour, MaxCount: 3}
	lefts := func(d *frameworktest.Driver, from, to int) {
		for i := from; i < to; i++ {
			frameworktest.Send(d, "left", event(fmt.Sprint("l", i), "k", float64(i)))
		}
	}
	for _, kind := range []string{"inner", "left", "outer"} {
		d := frameworktest.New(t, frameworktest.Config{}, joined(kind, window))
		lefts(d, 0, 5)
		d.Restart()
		lefts(d, 5, 10)
		frameworktest.Send(d, "left", event("l0", "other", 9)) // another key
		frameworktest.Send(d, "left", event("old", "k", 5.5))  // older than the three that there is room for
		var alone []string
		if kind != "inner" {
			alone = list("l0+-", "l1+-", "l2+-", "l3+-", "l4+-", "l5+-", "l6+-", "old+-")
		}
		equal(t, kind+": pushed out", names(d, "out"), alone)
		equal(t, kind+": overflowed", d.Counts("join").Overflowed, 8)
		frameworktest.Send(d, "right", event("r", "k", 5))
		met := append(slices.Clone(alone), list("l7+r", "l8+r", "l9+r")...)
		slices.Sort(met)
		equal(t, kind+": met", names(d, "out"), met)
		d.Restart()
		lefts(d, 10, 13) // they push out what has met r, and is not alone
		met = append(met, list("l10+r", "l11+r", "l12+r")...)
		slices.Sort(met)
		equal(t, kind+": more", names(d, "out"), met)
		equal(t, kind+": overflowed", d.Counts("join").Overflowed, 11)
		frameworktest.Send(d, "left", event("older", "k", 9.5)) // it is not kept, but meets who is there
		met = append(met, "older+r")
		slices.Sort(met)
		equal(t, kind+": older", names(d, "out"), met)
		equal(t, kind+": overflowed", d.Counts("join").Overflowed, 12)
		d.End()
		if kind != "inner" {
			met = append(met, "l0+-")
		}
		slices.Sort(met)
		equal(t, kind+": at the end", names(d, "out"), met)
		equal(t, kind+": faults", len(d.Faults()), 0)
		if ids := ids(d, "out"); len(slices.Compact(ids)) != len(met) {
			t.Errorf("%s: an id twice", kind)
		}
	}
}

// A bound by bytes, and the bounds of a self-join; the default is no bound that is met by chance.
func TestCase20OtherBoundsOfJoins(t *testing.T) {
	for name, window := range map[string]processors.Window{
		"bytes":   {Within: time.Hour, MaxBytes: 100},
		"count":   {Within: time.Hour, MaxCount: 2},
		"default": {Within: time.Hour},
	} {
		p := framework.NewPipeline("p")
		in := framework.From[item](p, "in", disordered)
		framework.To(processors.SelfJoin(in, "join", nil, window, textOf), "out")
		d := frameworktest.New(t, frameworktest.Config{}, p)
		for i := range 20 {
			frameworktest.Send(d, "in", event(fmt.Sprint("e", 10+i), "k", float64(i)))
		}
		pairs, overflowed := len(names(d, "out")), int(d.Counts("join").Overflowed)
		if name == "default" {
			equal(t, "pairs", pairs, 190)
			equal(t, "overflowed", overflowed, 0)
			continue
		}
		// Each meets the newest before it, which are those that are left at the end, less itself.
		kept := len(frameworktest.History[item](d, "join", "k"))
		equal(t, name+": overflowed", overflowed, 20-kept)
		equal(t, name+": pairs", pairs, (kept-1)*20-kept*(kept-1)/2)
		if kept != 2 && name == "count" || kept < 2 || kept > 4 {
			t.Errorf("%s: %d are kept", name, kept)
		}
	}
}
