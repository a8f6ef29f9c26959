package processors_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
	"github.com/millrace/millrace/processors"
)

// The property: whatever order the events come in, as far as OutOfOrder and AllowedLateness let them, with
// duplicates, however they are cut into batches and lanes, over restarts: the outputs are those that a naive
// model computes from the set of events, each once and with the same id in every run.

// bounds of a drawn case.
type bounds struct {
	outOfOrder, lateness time.Duration
	within               time.Duration
}

const (
	every = 4 * time.Minute
	soon  = 3 * time.Minute
)

// everything is a pipeline with all steps whose outputs depend on times.
func everything(b bounds) *framework.Pipeline {
	p := framework.NewPipeline("p")
	from := framework.Source[item]{OutOfOrder: b.outOfOrder}
	l, r := framework.From(p, "left", from), framework.From(p, "right", from)
	window := processors.Window{Within: b.within, AllowedLateness: b.lateness}
	oneWay := processors.Window{After: b.within, AllowedLateness: b.lateness}
	on := processors.On(item.group, item.group)

	framework.To(processors.Join(l, r, "join-inner", on, window, text), "inner")
	framework.To(processors.LeftJoin(l, r, "join-left", on, oneWay, text), "one-way")
	outer := processors.OuterJoin(l, r, "join-outer", on, window, text)
	framework.To(outer, "outer")
	framework.To(processors.SelfJoin(l, "join-self", item.group, window, textOf), "self")

	kept := processors.CollectBy(l, "kept", item.group, processors.CollectConfig{Retain: soon, AllowedLateness: b.lateness})
	framework.To(processors.Evaluate(kept, "near", nearPairs), "evaluated")
	framework.To(processors.Expire(kept, "alone", soon, noneAfter), "expired")
	compact := processors.Compact(l, "compact", processors.Tumbling{Size: every, AllowedLateness: b.lateness}, compacted)
	framework.To(compact, "compacted")

	// Steps after a step that holds its events back: in the same stage, and in the next.
	again := processors.MapData(outer, "again", func(s string) item { return item{Name: s} })
	framework.To(processors.SelfJoin(again, "join-again", nil, processors.Window{Within: soon, AllowedLateness: b.lateness}, textOf), "chained")
	framework.To(processors.Join(again, l, "join-with-left", processors.SameKey, processors.Window{Within: soon, AllowedLateness: b.lateness}, text), "chained-join")
	newest := processors.MapData(compact, "newest", func(s string) item { return item{Name: s} })
	framework.To(processors.SelfJoin(newest, "join-newest", nil, processors.Window{Within: soon, AllowedLateness: b.lateness}, textOf), "chained-compact")
	keyed := processors.ReKey(again, "by-left", func(e *framework.Event[item]) string {
		name, _, _ := strings.Cut(e.Data.Name, "+")
		return name
	})
	framework.To(processors.Compact(keyed, "compact-again", processors.Tumbling{Size: every}, compacted), "next-stage")
	return p
}

func nearPairs(h framework.View[item], _ *framework.Event[item]) ([]processors.Emission[string], error) {
	var all []processors.Emission[string]
	for i := range h.Len() {
		for j := range i {
			if h.At(i).Time.Sub(h.At(j).Time) <= soon {
				all = append(all, processors.EmitFor(h.At(j).Data.Name+"+"+h.At(i).Data.Name, h.At(i), h.At(j))...)
			}
		}
	}
	return all, nil
}

func noneAfter(h framework.View[item], e *framework.Event[item]) (string, bool, error) {
	last := h.At(h.Len() - 1)
	return e.Data.Name, last.Time.Equal(e.Time) && last.ID() == e.ID(), nil
}

func compacted(h framework.View[item]) (string, error) { return contents(h, nil), nil }

// expected computes the outputs of each topic from the set of events; those of the steps after the outer join and the
// compaction from the outputs of these.
func expected(b bounds, left, right, outer, newest []*framework.Event[item]) map[string][]string {
	out := map[string][]string{}
	add := func(topic string, t time.Time, l, r *framework.Event[item]) {
		s, _ := text(l, r)
		out[topic] = append(out[topic], show(s, t))
	}
	join := func(topic string, before, after time.Duration, aloneLeft, aloneRight bool) {
		met := map[*framework.Event[item]]bool{}
		for _, l := range left {
			for _, r := range right {
				d := r.Time.Sub(l.Time)
				if l.Key == r.Key && l.Data.Group == r.Data.Group && -before <= d && d <= after {
					met[l], met[r] = true, true
					add(topic, later(l, r).Time, l, r)
				}
			}
		}
		for _, l := range left {
			if aloneLeft && !met[l] {
				add(topic, l.Time, l, nil)
			}
		}
		for _, r := range right {
			if aloneRight && !met[r] {
				add(topic, r.Time, nil, r)
			}
		}
	}
	join("inner", b.within, b.within, false, false)
	join("one-way", 0, b.within, true, false)
	join("outer", b.within, b.within, true, true)

	for _, o := range outer {
		for _, l := range left {
			if o.Key == l.Key && o.Time.Sub(l.Time).Abs() <= soon {
				add("chained-join", later(o, l).Time, o, l)
			}
		}
	}

	pairs := func(topic string, events []*framework.Event[item], within time.Duration) {
		for i, x := range events {
			for _, y := range events[:i] {
				first, last := x, y
				if later(first, last) == first {
					first, last = last, first
				}
				if x.Key == y.Key && x.Data.Group == y.Data.Group && last.Time.Sub(first.Time) <= within {
					add(topic, last.Time, first, last)
				}
			}
		}
	}
	pairs("self", left, b.within)
	pairs("evaluated", left, soon)
	pairs("chained", outer, soon)
	pairs("chained-compact", newest, soon)
	for _, x := range left {
		alone := true
		for _, y := range left {
			if y.Key == x.Key && y.Data.Group == x.Data.Group && y != x && later(x, y) == y && y.Time.Sub(x.Time) <= soon {
				alone = false
			}
		}
		if alone {
			out["expired"] = append(out["expired"], show(x.Data.Name, x.Time.Add(soon)))
		}
	}
	compact := func(topic string, events []*framework.Event[item], key func(*framework.Event[item]) string) {
		windows := map[string][]*framework.Event[item]{}
		for _, e := range events {
			w := key(e) + e.Time.Truncate(every).String()
			windows[w] = append(windows[w], e)
		}
		for _, w := range windows {
			sort.Slice(w, func(i, j int) bool { return later(w[i], w[j]) == w[j] })
			var all []string
			for _, e := range w {
				all = append(all, e.Data.Name)
			}
			out[topic] = append(out[topic], show(strings.Join(all, " "), w[len(w)-1].Time))
		}
	}
	compact("compacted", left, func(e *framework.Event[item]) string { return e.Key })
	compact("next-stage", outer, func(e *framework.Event[item]) string {
		name, _, _ := strings.Cut(e.Data.Name, "+")
		return name
	})
	for _, all := range out {
		slices.Sort(all)
	}
	return out
}

var topics = list("inner", "one-way", "outer", "self", "evaluated", "expired", "compacted", "chained", "chained-join", "chained-compact", "next-stage")

func later(a, b *framework.Event[item]) *framework.Event[item] {
	if c := a.Time.Compare(b.Time); c > 0 || c == 0 && a.ID() > b.ID() {
		return a
	}
	return b
}

func show(data string, t time.Time) string { return data + " @" + t.Format("15:04:05") }

// delivery is one way in which the events come.
type delivery struct {
	lanes, partitions int
	batches           []batch
}

type batch struct {
	topic   string
	events  []*framework.Event[item]
	restart bool // before it
}

// drawDelivery draws an order in which no event comes later than is allowed.
func drawDelivery(t *rapid.T, b bounds, label string, left, right []*framework.Event[item]) delivery {
	d := delivery{
		lanes:      rapid.SampledFrom([]int{1, 3, 4}).Draw(t, label+" lanes"),
		partitions: rapid.SampledFrom([]int{1, 2}).Draw(t, label+" partitions"),
	}
	queues := map[string][]*framework.Event[item]{
		"left": drawOrder(t, b, label+" left", left), "right": drawOrder(t, b, label+" right", right)}
	for len(queues["left"])+len(queues["right"]) > 0 {
		topic := rapid.SampledFrom([]string{"left", "right"}).Draw(t, label+" topic")
		n := min(rapid.IntRange(1, 12).Draw(t, label+" batch"), len(queues[topic]))
		d.batches = append(d.batches, batch{
			topic: topic, events: queues[topic][:n], restart: rapid.IntRange(0, 9).Draw(t, label+" restart") == 9})
		queues[topic] = queues[topic][n:]
	}
	return d
}

// drawOrder puts events, and some of them twice, in an order in which each is delayed as far as the bounds let it.
func drawOrder(t *rapid.T, b bounds, label string, events []*framework.Event[item]) []*framework.Event[item] {
	type delayed struct {
		e  *framework.Event[item]
		at time.Time
	}
	var all []delayed
	most := int(min(b.outOfOrder+b.lateness, time.Hour) / time.Minute)
	for _, e := range events {
		for range rapid.SampledFrom([]int{1, 1, 1, 2}).Draw(t, label+" copies") {
			delay := rapid.IntRange(0, most).Draw(t, label+" delay")
			all = append(all, delayed{e, e.Time.Add(time.Duration(delay) * time.Minute)})
		}
	}
	slices.SortStableFunc(all, func(x, y delayed) int { return cmp.Or(x.at.Compare(y.at), y.e.Time.Compare(x.e.Time)) })
	var out []*framework.Event[item]
	for _, x := range all {
		out = append(out, x.e)
	}
	return out
}

func drawEvents(t *rapid.T, prefix string) []*framework.Event[item] {
	n := rapid.IntRange(0, 25).Draw(t, prefix+" events")
	var all []*framework.Event[item]
	for i := range n {
		name := fmt.Sprint(prefix, i)
		id := name
		if rapid.Bool().Draw(t, "shared id") {
			id = fmt.Sprint(i) // as the other side's
		}
		minute := rapid.IntRange(0, 40).Draw(t, "minute")
		key := fmt.Sprint("k", rapid.IntRange(0, 2).Draw(t, "key"))
		group := fmt.Sprint("g", rapid.IntRange(0, 1).Draw(t, "group"))
		all = append(all, framework.NewEvent(id, key, at(float64(minute)), item{Name: name, Group: group}))
	}
	return all
}

// outcome is what a delivery led to.
type outcome struct {
	data   map[string][]string          // by topic, sorted
	ids    map[string]map[string]string // by topic and data
	outer  []*framework.Event[item]
	newest []*framework.Event[item]
	faults []framework.Fault
}

func deliver(t *testing.T, b bounds, how delivery) (o outcome) {
	o = outcome{data: map[string][]string{}, ids: map[string]map[string]string{}}
	t.Run("delivery", func(t *testing.T) { // closes the store when it is done
		d := frameworktest.New(t, frameworktest.Config{Lanes: how.lanes, Partitions: how.partitions, MemoryBytes: 32 << 20}, everything(b))
		for _, batch := range how.batches {
			if batch.restart {
				d.Restart()
			}
			frameworktest.Send(d, batch.topic, batch.events...)
		}
		d.End()
		for _, topic := range topics {
			o.ids[topic] = map[string]string{}
			for _, e := range frameworktest.Outputs[string](d, topic) {
				s := show(e.Data, e.Time)
				o.data[topic] = append(o.data[topic], s)
				o.ids[topic][s] = e.ID()
				// The ids that the next steps give to what they get are not known here; see untied.
				again := framework.NewEvent(e.ID(), e.Key, e.Time, item{Name: e.Data})
				switch topic {
				case "outer":
					o.outer = append(o.outer, again)
				case "compacted":
					o.newest = append(o.newest, again)
				}
			}
			slices.Sort(o.data[topic])
		}
		o.faults = d.Faults()
	})
	return o
}

func TestAnyOrderGivesTheSame(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := bounds{within: time.Duration(rapid.IntRange(1, 8).Draw(rt, "within")) * time.Minute}
		if rapid.Bool().Draw(rt, "wide") {
			b.outOfOrder = wide
		} else {
			b.outOfOrder = time.Duration(rapid.IntRange(0, 6).Draw(rt, "out of order")) * time.Minute
			b.lateness = time.Duration(rapid.IntRange(0, 6).Draw(rt, "lateness")) * time.Minute
		}
		left, right := drawEvents(rt, "l"), drawEvents(rt, "r")
		var first outcome
		for run := range 2 {
			got := deliver(t, b, drawDelivery(rt, b, fmt.Sprint("run ", run), left, right))
			want := expected(b, left, right, got.outer, got.newest)
			for _, topic := range topics {
				if g, w := untied(topic, got.data[topic]), untied(topic, want[topic]); !slices.Equal(g, w) {
					rt.Fatalf("run %d, %s:\n got %q\nwant %q", run, topic, g, w)
				}
			}
			if len(got.faults) > 0 {
				rt.Fatalf("run %d: %d faults, first %+v", run, len(got.faults), got.faults[0])
			}
			if run == 0 {
				first = got
				continue
			}
			for _, topic := range topics {
				if !maps.Equal(got.ids[topic], first.ids[topic]) {
					rt.Fatalf("%s: ids differ:\n%v\n%v", topic, got.ids[topic], first.ids[topic])
				}
			}
		}
	})
}

// untied makes outputs comparable where the order of events of one time goes by ids that the model does not know.
func untied(topic string, all []string) []string {
	if !strings.HasPrefix(topic, "chained") && topic != "next-stage" {
		return all
	}
	var out []string
	for _, s := range all {
		letters := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '+' })
		slices.Sort(letters)
		out = append(out, strings.Join(letters, " "))
	}
	slices.Sort(out)
	return out
}
