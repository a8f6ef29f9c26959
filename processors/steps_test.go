package processors_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
)

func TestSelectors(t *testing.T) {
	for _, c := range []struct {
		name   string
		wanted processors.Selector
		typ    string
		want   bool
	}{
		{"exact", processors.Type("a"), "a", true},
		{"exact, other", processors.Type("a"), "ab", false},
		{"list", processors.Type("a", "b"), "b", true},
		{"empty list", processors.Type(), "", false},
		{"no star", processors.TypeLike("a.b"), "a.b", true},
		{"no star, other", processors.TypeLike("a.b"), "a.bc", false},
		{"prefix", processors.TypeLike("order.*"), "order.placed", true},
		{"prefix, nothing after", processors.TypeLike("order.*"), "order.", true},
		{"prefix, other", processors.TypeLike("order.*"), "orders", false},
		{"suffix", processors.TypeLike("*.created"), "order.created", true},
		{"suffix, other", processors.TypeLike("*.created"), "created.x", false},
		{"middle", processors.TypeLike("a*b*c"), "a.b.b.c", true},
		{"middle, overlap", processors.TypeLike("ab*ba"), "aba", false},
		{"middle, order", processors.TypeLike("a*b*c*d"), "a.c.b.d", false},
		{"all", processors.TypeLike("*"), "", true},
		{"and", processors.AllOf(processors.TypeLike("a*"), processors.TypeLike("*b")), "ab", true},
		{"and, one", processors.AllOf(processors.TypeLike("a*"), processors.TypeLike("*b")), "ac", false},
		{"or", processors.AnyOf(processors.Type("a"), processors.Type("b")), "b", true},
		{"or, none", processors.AnyOf(processors.Type("a"), processors.Type("b")), "c", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			equal(t, c.typ, c.wanted(&framework.Header{Type: c.typ}), c.want)
		})
	}
}

func TestBranchIsExclusive(t *testing.T) {
	p := framework.NewPipeline("p")
	has := func(letter string) func(*framework.Event[item]) bool {
		return func(e *framework.Event[item]) bool { return strings.Contains(e.Data.Name, letter) }
	}
	ways := processors.Branch(framework.From[item](p, "in"), "ways",
		processors.When("a", has("a")), processors.When("b", has("b")), processors.Otherwise)
	var marked []*framework.Stream[string]
	for i, way := range ways {
		marked = append(marked, processors.MapData(way, fmt.Sprint("mark", i), func(it item) string { return fmt.Sprint(i, it.Name) }))
	}
	framework.To(processors.Merge("all", marked...), "out")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	frameworktest.Send(d, "in", event("b", "k", 0), event("ab", "k", 1), event("c", "k", 2))
	equal(t, "outputs", inOrder(d, "out"), list("1b", "0ab", "2c"))
	equal(t, "counts", d.Counts("ways.a").Out, 1)
}

func TestReKeyEach(t *testing.T) {
	p := framework.NewPipeline("p")
	keyed := processors.ReKeyEach(framework.From[item](p, "in"), "groups",
		func(e *framework.Event[item]) []string {
			return strings.FieldsFunc(e.Data.Group, func(r rune) bool { return r == '|' })
		}, framework.ReKey[item]{Time: func(e *framework.Event[item]) time.Time { return e.Time.Add(time.Hour) }})
	framework.To(keyed, "out")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	frameworktest.Send(d, "in", event("a", "k", 0, "x", "y"), event("b", "k", 1), event("c", "k", 2, "x"))
	var all []string
	for _, r := range d.Outputs("out") {
		all = append(all, r.ID+"@"+r.Key+r.Time.Format("15:04"))
	}
	want := map[string]bool{"a@x13:00": true, "a@y13:00": true, "c@x13:02": true}
	for _, s := range all {
		if !want[s] {
			t.Errorf("unexpected %s", s)
		}
	}
	equal(t, "outputs", len(all), len(want))
}

// What the same events make in two keys are two events.
func TestSameEventsInTwoKeys(t *testing.T) {
	p := framework.NewPipeline("p")
	keyed := processors.ReKeyEach(framework.From[item](p, "in"), "each",
		func(e *framework.Event[item]) []string { return strings.Split(e.Data.Group, "|") })
	framework.To(processors.SelfJoin(keyed, "near", nil, processors.Window{Within: time.Hour}, textOf), "pairs")
	kept := processors.Collect(keyed, "kept", processors.CollectConfig{Retain: time.Hour})
	framework.To(processors.Evaluate(kept, "evaluated", nearPairs), "evaluations")
	framework.To(processors.Expire(kept, "expired", time.Minute, noneAfter), "expiries")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	frameworktest.Send(d, "in", event("a", "k", 0, "x", "y"), event("b", "k", 1, "x", "y"))
	d.End()
	for _, topic := range list("pairs", "evaluations", "expiries") {
		equal(t, topic, len(slices.Compact(ids(d, topic))), 2)
	}
}

func TestFoldKeepsAndTakesBack(t *testing.T) {
	p := framework.NewPipeline("p")
	in := processors.Distinct(framework.From[item](p, "in"), "once", time.Hour)
	sums := processors.FoldSome(in, "sums", 0, func(sum int, e *framework.Event[item]) (int, bool, error) {
		if e.Data.Value < 0 {
			return 0, false, errors.New("negative")
		}
		return sum + e.Data.Value, e.Data.Value > 0, nil
	})
	framework.To(processors.Map(sums, "check", func(e *framework.Event[int]) (int, error) {
		if e.Data == 13 {
			return 0, errors.New("unlucky")
		}
		return e.Data, nil
	}), "out")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	n := 0
	send := func(values ...int) {
		for _, v := range values {
			e := event(fmt.Sprint("e", n), "k", float64(n))
			e.Data.Value = v
			frameworktest.Send(d, "in", e, e)
			n++
		}
	}
	send(5, 0, -1, 8) // 8 makes 13, which a later step refuses: it is taken back
	d.Restart()
	send(2)
	var all []int
	for _, e := range frameworktest.Outputs[int](d, "out") {
		all = append(all, e.Data)
	}
	equal(t, "sums", all, list(5, 7))
	// A duplicate of what was taken back is not one, and fails again.
	equal(t, "faults", len(d.Faults()), 4)
	equal(t, "duplicates", d.Counts("once").Duplicates, 3)
}

func TestDistinctForgetsAndIsLate(t *testing.T) {
	p := framework.NewPipeline("p")
	framework.To(processors.MapData(processors.Distinct(framework.From[item](p, "in"), "once", 10*time.Minute), "name",
		func(i item) string { return i.Name }), "out")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	frameworktest.Send(d, "in", event("a", "k", 0), event("b", "k", 10), event("a", "k", 0), event("c", "k", 11), event("a", "k", 0),
		event("b", "k2", 11))
	equal(t, "outputs", inOrder(d, "out"), list("a", "b", "c", "b"))
	equal(t, "duplicates", d.Counts("once").Duplicates, 1)
	equal(t, "late", d.Counts("once").Late, 1)
}

// A join without partner passes on each event once, at its own time, when its window has closed, over restarts; and
// the event that came too late for it stays out.
func TestOuterJoinReportsOnce(t *testing.T) {
	window := processors.Window{Before: 2 * time.Minute, After: 10 * time.Minute, AllowedLateness: time.Minute}
	d := frameworktest.New(t, frameworktest.Config{}, joined("outer", window))
	frameworktest.Send(d, "left", event("l1", "k", 0), event("l2", "k", 0), event("l3", "k2", 0))
	frameworktest.Send(d, "right", event("r1", "k3", 0), event("r2", "k2", 10))
	d.Restart()
	d.Advance(at(3))
	equal(t, "right closes first", names(d, "out"), list("l3+r2"))
	d.Advance(at(3.0001))
	equal(t, "right closes first", names(d, "out"), list("-+r1", "l3+r2"))
	d.Advance(at(11))
	d.Restart()
	equal(t, "before left closes", names(d, "out"), list("-+r1", "l3+r2"))
	d.Advance(at(11.0001))
	want := list("-+r1", "l1+-", "l2+-", "l3+r2")
	equal(t, "all", names(d, "out"), want)
	d.Restart()
	frameworktest.Send(d, "right", event("r3", "k", 5)) // its own window closed at 8 minutes
	d.End()
	equal(t, "all", names(d, "out"), want)
	for _, r := range d.Outputs("out") {
		if string(r.Value) != `"l3+r2"` {
			equal(t, "time", r.Time, at(0))
		}
	}
	equal(t, "late", d.Counts("join").Late, 1)
}

// An event that comes later than allowed, while its own window is open, does not pair with one that was reported as
// alone, and is reported as alone itself.
func TestOuterJoinStaysConsistentWithLateEvents(t *testing.T) {
	d := frameworktest.New(t, frameworktest.Config{}, joined("outer", processors.Window{Within: 10 * time.Minute}))
	frameworktest.Send(d, "left", event("l", "k", 0))
	d.Advance(at(10).Add(1)) // the moment it closes
	equal(t, "reported", names(d, "out"), list("l+-"))
	frameworktest.Send(d, "right", event("r", "k", 5))
	frameworktest.Send(d, "left", event("l2", "k", 14))
	d.End()
	equal(t, "all", names(d, "out"), list("l+-", "l2+r"))
	equal(t, "faults", len(d.Faults()), 0)
}

// A failing combination makes a fault of the event that completed the pair, which leaves nothing behind and can come
// again.
func TestJoinTakesBackWhatFails(t *testing.T) {
	p := framework.NewPipeline("p")
	fail := true
	l, r := framework.From[item](p, "left", disordered), framework.From[item](p, "right", disordered)
	framework.To(processors.LeftJoin(l, r, "join", processors.SameKey, processors.Window{Within: time.Minute},
		func(l, r *framework.Event[item]) (string, error) {
			if fail && r != nil && r.Data.Name == "r" {
				return "", errors.New("not now")
			}
			return text(l, r)
		}), "out")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	frameworktest.Send(d, "left", event("l", "k", 0))
	frameworktest.Send(d, "right", event("r", "k", 0))
	equal(t, "faults", len(d.Faults()), 1)
	fail = false
	frameworktest.Send(d, "right", event("r", "k", 0))
	d.End()
	equal(t, "outputs", inOrder(d, "out"), list("l+r"))
}

// An event without key is a fault of every step that keeps state.
func TestNoKey(t *testing.T) {
	add := map[string]func(*framework.Stream[item]) *framework.Stream[string]{
		"collect": func(in *framework.Stream[item]) *framework.Stream[string] {
			return history(processors.Collect(in, "step", processors.CollectConfig{Retain: time.Hour}), "look")
		},
		"self-join": func(in *framework.Stream[item]) *framework.Stream[string] {
			return processors.SelfJoin(in, "step", nil, processors.Window{Within: time.Hour}, textOf)
		},
		"join": func(in *framework.Stream[item]) *framework.Stream[string] {
			return processors.Join(in, in, "step", processors.SameKey, processors.Window{Within: time.Hour}, text)
		},
		"join latest": func(in *framework.Stream[item]) *framework.Stream[string] {
			return processors.JoinLatest(in, in, "step", func(i item) (string, bool) { return i.Name, true }, latestOf)
		},
		"fold": func(in *framework.Stream[item]) *framework.Stream[string] {
			return processors.Fold(in, "step", "", func(string, *framework.Event[item]) (string, error) { return "", nil })
		},
		"compact": func(in *framework.Stream[item]) *framework.Stream[string] {
			return processors.Compact(in, "step", processors.Tumbling{Size: time.Hour}, compacted)
		},
		"distinct": func(in *framework.Stream[item]) *framework.Stream[string] {
			return processors.MapData(processors.Distinct(in, "step", time.Hour), "name", func(i item) string { return i.Name })
		},
	}
	for name, step := range add {
		t.Run(name, func(t *testing.T) {
			p := framework.NewPipeline("p")
			framework.To(step(framework.From[item](p, "in")), "out")
			d := frameworktest.New(t, frameworktest.Config{}, p)
			frameworktest.Send(d, "in", event("a", "", 0))
			if f := d.Faults(); len(f) != 1 || f[0].Step != "step" {
				t.Errorf("faults %+v, want one at step", f)
			}
		})
	}
}

// An event without the value that it is to be joined or grouped by does not meet the others without one.
func TestNoValueToJoinBy(t *testing.T) {
	p := framework.NewPipeline("p")
	in := framework.From[item](p, "in")
	framework.To(processors.SelfJoin(in, "pairs", item.group, processors.Window{Within: time.Hour}, textOf), "out")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	frameworktest.Send(d, "in", event("a", "k", 0), event("b", "k", 1))
	equal(t, "pairs", names(d, "out"), nil)
	equal(t, "faults", len(d.Faults()), 2)
}

// What is not set up right is reported when the pipeline is validated, all of it at once.
func TestInvalidSteps(t *testing.T) {
	p := framework.NewPipeline("p")
	in := framework.From[item](p, "in")
	kept := processors.Collect(in, "unbounded", processors.CollectConfig{})
	bounded := processors.Collect(in, "bounded", processors.CollectConfig{Retain: time.Hour})
	processors.Expire(kept, "now", 0, noneAfter)
	processors.Expire(bounded, "never", 2*time.Hour, noneAfter)
	processors.Join(in, in, "no window", processors.SameKey, processors.Window{}, text)
	processors.Join(in, in, "two windows", processors.SameKey, processors.Window{Within: 1, After: 1}, text)
	processors.SelfJoin(in, "one way", nil, processors.Window{After: time.Hour}, textOf)
	processors.Compact(in, "no size", processors.Tumbling{AllowedLateness: -1}, compacted)
	processors.Distinct(in, "no time", 0)
	processors.Branch[item](in, "nowhere")
	processors.Enrich[item, item, string, int](in, "nothing", nil, item.group, func(i item, _ int) item { return i })
	err := p.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, name := range list("unbounded", "now", "never", "no window", "two windows", "one way", "no size", "no time", "nowhere", "nothing") {
		if !strings.Contains(err.Error(), `"`+name+`": `) {
			t.Errorf("nothing about %q in: %v", name, err)
		}
	}
	if strings.Contains(err.Error(), `"bounded": `) {
		t.Errorf("a fault of a sound step in: %v", err)
	}
}

// A function that is not given is reported when the pipeline is validated, and is not a fault of each event.
func TestMissingFunctions(t *testing.T) {
	type pair = func(*framework.Event[item], *framework.Event[item]) (string, error)
	p := framework.NewPipeline("p")
	in := framework.From[item](p, "in")
	kept := processors.Collect(in, "kept", processors.CollectConfig{Retain: time.Hour})
	hour := processors.Window{Within: time.Hour}
	processors.Filter(in, "filter", nil)
	processors.Select(in, "select", nil)
	processors.Peek(in, "peek", nil)
	processors.Map[item, item](in, "map", nil)
	processors.MapData[item, item](in, "map data", nil)
	processors.Split[item, item](in, "split", nil)
	processors.Fold[item, int](in, "fold", 0, nil)
	processors.FoldSome[item, int](in, "fold some", 0, nil)
	processors.Branch(in, "branch", processors.When[item]("way", nil), processors.Otherwise)
	processors.Enrich[item, item](in, "enrich", processors.Table(map[string]int{}), nil, nil)
	processors.EnrichMaybe[item, item](in, "enrich maybe", processors.Table(map[string]int{}), nil, nil)
	processors.Evaluate[item, item](kept, "evaluate", nil)
	processors.Expire[item, item](kept, "expire", time.Minute, nil)
	processors.Compact[item, item](in, "compact", processors.Tumbling{Size: time.Hour}, nil)
	processors.Join(in, in, "join", processors.SameKey, hour, pair(nil))
	processors.Join(in, in, "on nothing", nil, hour, text)
	processors.Join(in, in, "on one", processors.On[item, item](item.group, nil), hour, text)
	processors.SelfJoin[item, item](in, "self-join", nil, hour, nil)
	processors.JoinLatest[item, item, int, item](in, in, "latest", nil, nil)
	processors.ReKey(in, "rekey", nil)
	_, err := framework.New(framework.Config{}, p, nil)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`filter "filter": keep is nil`, `filter "select": wanted is nil`, `peek "peek": look is nil`, `map "map": f is nil`,
		`map "map data": f is nil`, `split "split": f is nil`, `fold "fold": f is nil`, `fold "fold some": f is nil`,
		`branch "branch": the function of case "way" is nil`, `enrich "enrich": key is nil`, `enrich "enrich": with is nil`,
		`enrich "enrich maybe": key is nil`, `enrich "enrich maybe": with is nil`, `evaluate "evaluate": f is nil`,
		`expire "expire": f is nil`, `compact "compact": f is nil`, `join "join": combine is nil`, `join "on nothing": on is nil`,
		`join "on one": one of the functions of On is nil`, `self-join "self-join": combine is nil`,
		`join latest "latest": value is nil`, `join latest "latest": combine is nil`, `rekey "rekey": `,
		"pipeline 2 of 2 is nil",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
	if strings.Count(err.Error(), " is nil") != 24 { // with Config.Store
		t.Errorf("a sound step is reported: %v", err)
	}
}

// Marks of emissions go when a bound by count has pushed their triggers out: the store does not grow for ever.
func TestMarksAreBounded(t *testing.T) {
	p := framework.NewPipeline("p")
	kept := processors.Collect(framework.From[item](p, "in"), "kept", processors.CollectConfig{MaxCount: 3})
	framework.To(processors.Evaluate(kept, "pairs", nearPairs), "out")
	var store *microstore.Store
	d := frameworktest.New(t, frameworktest.Config{Engine: func(c *framework.Config) { store = c.Store }}, p)
	for i := range 50 {
		frameworktest.Send(d, "in", event(fmt.Sprint("e", i), "k", float64(i)))
	}
	equal(t, "pairs", len(d.Outputs("out")), 49+48)
	equal(t, "marks", entries(t, store, "pairs.emitted", microstore.HistoryConfig{}), 3)
}

// entries counts what a history has on disk.
func entries(t *testing.T, store *microstore.Store, name string, c microstore.HistoryConfig) int {
	t.Helper()
	tasks, err := store.Tasks()
	if err != nil || len(tasks) != 1 {
		t.Fatalf("tasks %q, %v; want one", tasks, err)
	}
	task, err := store.Task(tasks[0])
	if err != nil {
		t.Fatal(err)
	}
	h, err := task.History(name, c)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = h.All(func(string, string, *microstore.Entry) bool { n++; return true })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What a batch causes may not fit one commit: it is cut, and nothing is lost or early by that.
func TestLargeBatch(t *testing.T) {
	p := framework.NewPipeline("p")
	in := framework.From[item](p, "in")
	pairs := processors.SelfJoin(in, "pairs", nil, processors.Window{Within: time.Minute},
		func(a, b *framework.Event[item]) (string, bool, error) { return a.ID() + "+" + b.ID(), true, nil })
	framework.To(pairs, "out")
	framework.To(processors.Expire(processors.Collect(in, "kept", processors.CollectConfig{Retain: time.Minute}), "expire", time.Minute,
		func(_ framework.View[item], e *framework.Event[item]) (string, bool, error) { return e.ID(), true, nil }), "expired")
	d := frameworktest.New(t, frameworktest.Config{Lanes: 2, MemoryBytes: 32 << 20}, p)
	const n = 3000
	var all []*framework.Event[item]
	for i := range n {
		e := event(fmt.Sprint("e", i), fmt.Sprint("k", i%2), float64(i/2))
		e.Data.Name = strings.Repeat("x", 600)
		all = append(all, e)
	}
	frameworktest.Send(d, "in", all...)
	d.End()
	equal(t, "pairs", len(d.Outputs("out")), n-2)
	equal(t, "expiries", len(d.Outputs("expired")), n)
	equal(t, "late", d.Counts("pairs").Late+d.Counts("kept").Late, 0)
}

// The disk does not keep what has expired.
func TestExpiredLeavesTheStore(t *testing.T) {
	p := framework.NewPipeline("p")
	in := framework.From[item](p, "in")
	framework.To(processors.OuterJoin(in, processors.MapData(in, "same", func(i item) item { return i }), "join",
		processors.SameKey, processors.Window{Within: time.Minute}, text), "out")
	var store *microstore.Store
	d := frameworktest.New(t, frameworktest.Config{Engine: func(c *framework.Config) { store = c.Store }}, p)
	for i := range 300 {
		frameworktest.Send(d, "in", event(fmt.Sprint("e", i), fmt.Sprint("k", i), float64(i)))
	}
	if n := entries(t, store, "join.left", microstore.HistoryConfig{MaxCount: 100_000}); n > 5 {
		t.Errorf("%d events of the left side are kept, want at most 5", n)
	}
}
