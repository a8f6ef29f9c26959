package framework_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
)

// tombstone is a record without a value, n seconds after noon.
func tombstone(id, key string, n int) framework.Record {
	return framework.Record{ID: id, Key: key, Time: noon.Add(time.Duration(n) * time.Second), Type: "gone", Metadata: map[string]string{"why": "closed"}}
}

func valued(id, key string, n int) framework.Record {
	r := tombstone(id, key, n)
	r.Value = fmt.Appendf(nil, `{"n":%d}`, n)
	return r
}

// through reads "in" as the source says, and writes what comes through steps of all kinds that pass events on to "out".
func through(source framework.Source[thing], seen *[]string) *framework.Pipeline {
	p := framework.NewPipeline("p")
	in := framework.From(p, "in", source)
	some := processors.Filter(in, "some", func(e *framework.Event[thing]) bool {
		*seen = append(*seen, fmt.Sprint(e.ID(), " ", e.Data.N, " ", e.Deleted))
		return true
	})
	moved := processors.ReKey(some, "moved", func(e *framework.Event[thing]) string { return e.Key + "'" })
	once := processors.Distinct(moved, "once", time.Hour)
	one := processors.Map(once, "one", func(e *framework.Event[thing]) (string, error) { return fmt.Sprint(e.Data.N), nil })
	framework.To(processors.EnrichMaybe(one, "two", processors.Table(map[string]int{"0": 1}), func(s string) string { return s },
		func(s string, _ int, found bool) string { return fmt.Sprint(s, found) }), "out")
	return p
}

// A source says what becomes of records without a value.
func TestTombstones(t *testing.T) {
	records := func() []framework.Record {
		return []framework.Record{valued("1", "k", 0), tombstone("2", "k", 1), tombstone("2", "k", 1), {ID: "3", Key: "k", Time: noon, Value: []byte{}}}
	}
	for _, c := range []struct {
		name   string
		source framework.Source[thing]
		seen   string // by the filter: id, number, Deleted
		faults string // ids of events, with what they say
		out    int
	}{
		{"by default", framework.Source[thing]{}, "1 0 false", "2 has no value,2 has no value,3 EOF", 1},
		{"skipped", framework.Source[thing]{Tombstones: framework.TombstonesSkip}, "1 0 false", "3 EOF", 1},
		{"passed on", framework.Source[thing]{Tombstones: framework.TombstonesPass}, "1 0 false,2 0 true,2 0 true", "3 EOF", 2},
		{"passed on, and its functions are not asked", framework.Source[thing]{Tombstones: framework.TombstonesPass,
			Key:  func(v thing) string { return [1]string{"k"}[v.N] },
			Time: func(v thing) time.Time { return [1]time.Time{noon}[v.N] },
			ID:   func(v thing) string { return [1]string{"1"}[v.N] },
		}, "1 0 false,2 0 true,2 0 true", "3 EOF", 2},
		{"of another type", framework.Source[thing]{Tombstones: framework.TombstonesPass, Types: []string{""}}, "", "3 EOF", 0},
		{"bytes", framework.Source[thing]{Tombstones: framework.TombstonesPass, Codec: sevens{}}, "1 7 false,2 0 true,2 0 true,3 7 false", "", 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			var seen []string
			d := frameworktest.New(t, frameworktest.Config{}, through(c.source, &seen))
			d.Send("in", records()...)
			if got := strings.Join(seen, ","); got != c.seen {
				t.Errorf("the filter has seen %q, want %q", got, c.seen)
			}
			var faults []string
			for _, f := range d.Faults() {
				what := "EOF"
				if strings.Contains(f.Error, "has no value") && f.Event.Deleted {
					what = "has no value"
				}
				if faults = append(faults, f.Event.ID+" "+what); f.Step != "in" || f.Class != framework.ClassPermanent || f.Event.Key != "k" {
					t.Errorf("%+v", f)
				}
			}
			if got := strings.Join(faults, ","); got != c.faults {
				t.Errorf("faults %q, want %q", got, c.faults)
			}
			out := d.Outputs("out")
			if len(out) != c.out {
				t.Fatalf("%d outputs, want %d", len(out), c.out)
			}
			for i, r := range out {
				if deleted := i == 1; (r.Value == nil) != deleted || r.Key != "k'" || deleted && (r.ID == "2" || r.Metadata["why"] != "closed" ||
					r.Causes != "2" || !r.Time.Equal(noon.Add(time.Second))) {
					t.Errorf("output %d: %+v", i, r)
				}
			}
		})
	}
}

// sevens is a codec for which each payload is the same.
type sevens struct{}

func (sevens) Decode(_ *framework.Record, v *thing) error { v.N = 7; return nil }

func (sevens) Append(dst []byte, _ *thing) ([]byte, error) { return dst, nil }

// A source that nothing reads but right sides of JoinLatest passes deletions on without being told to.
func TestTombstonesByDefault(t *testing.T) {
	type stream = framework.Stream[thing]
	latest := func(name string, left, right *stream) *stream {
		return processors.JoinLatest(left, right, name, func(v thing) (int, bool) { return v.N, true },
			func(_ *framework.Event[thing], n int, found bool) (thing, error) {
				if !found {
					n = -1
				}
				return thing{n}, nil
			})
	}
	for _, c := range []struct {
		name  string
		steps func(left, right *stream) *stream
		fails bool
	}{
		{"right side", func(left, right *stream) *stream { return latest("a", left, right) }, false},
		{"right side of two", func(left, right *stream) *stream { return latest("b", latest("a", left, right), right) }, false},
		{"sink beside it", func(left, right *stream) *stream { framework.To(right, "beside"); return latest("a", left, right) }, true},
		{"both sides", func(left, right *stream) *stream {
			return processors.Merge("all", latest("a", left, right), latest("b", right, right))
		}, true},
		{"behind a step", func(left, right *stream) *stream {
			return latest("a", left, processors.MapData(right, "map", func(v thing) thing { return v }))
		}, true},
	} {
		p := framework.NewPipeline("p")
		framework.To(c.steps(framework.From[thing](p, "left"), framework.From[thing](p, "right")), "out")
		d := frameworktest.New(t, frameworktest.Config{}, p)
		d.Send("right", valued("1", "k", 7), tombstone("2", "k", 8))
		d.Send("left", valued("3", "k", 9))
		out := frameworktest.Outputs[thing](d, "out")
		want := map[bool]int{true: 7, false: -1}[c.fails]
		if last := out[len(out)-1]; last.Data.N != want || len(d.Faults()) > 0 != c.fails {
			t.Errorf("%s: %+v and %d faults, want %d", c.name, last.Data, len(d.Faults()), want)
		}
		d.Close()
	}
}

// What keeps events does not take one without data; the steps before it leave no trace.
func TestTombstonesAreNotKept(t *testing.T) {
	p := framework.NewPipeline("p")
	in := framework.From(p, "in", framework.Source[thing]{Tombstones: framework.TombstonesPass})
	framework.To(in, "out")
	framework.To(processors.Collect(in, "kept", processors.CollectConfig{MaxCount: 5}).Stream, "out.kept")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	d.Send("in", tombstone("1", "k", 0))
	f := d.Faults()
	if len(f) != 1 || f[0].Step != "kept" || !strings.Contains(f[0].Error, "has no data") || !f[0].Event.Deleted {
		t.Errorf("faults %+v", f)
	}
	if out := d.Outputs("out"); len(out) > 0 {
		t.Errorf("outputs %+v", out)
	}
}

// What steps make of a deletion has data, where they make it themselves.
func TestDataOfTombstones(t *testing.T) {
	p := framework.NewPipeline("p")
	in := framework.From(p, "in", framework.Source[thing]{Tombstones: framework.TombstonesPass})
	framework.To(processors.Fold(in, "present", 0, func(n int, e *framework.Event[thing]) (int, error) {
		if e.Deleted {
			return 0, nil
		}
		return n + 1, nil
	}), "out.present")
	framework.To(processors.Split(in, "told", func(e *framework.Event[thing]) ([]string, error) {
		return []string{fmt.Sprint(e.Key, " gone: ", e.Deleted)}, nil
	}), "out.told")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	d.Send("in", valued("1", "k", 0), tombstone("2", "k", 1), valued("3", "k", 2))
	got := ""
	for _, topic := range []string{"out.present", "out.told"} {
		for _, r := range d.Outputs(topic) {
			got += string(r.Value) + " "
		}
	}
	if want := `1 0 1 "k gone: false" "k gone: true" "k gone: false" `; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What is empty is sent as that, whatever a codec makes of it, and deletes nothing.
func TestEmptyIsNoTombstone(t *testing.T) {
	p := framework.NewPipeline("p")
	in := framework.From[thing](p, "in")
	framework.To(processors.MapData(in, "nothing", func(thing) []byte { return nil }), "out", framework.Sink[[]byte]{Codec: framework.Bytes()})
	framework.To(in, "out.empty", framework.Sink[thing]{Codec: empty{}})
	d := frameworktest.New(t, frameworktest.Config{}, p)
	d.Send("in", valued("1", "k", 0))
	for _, topic := range []string{"out", "out.empty"} {
		if out := d.Outputs(topic); len(out) != 1 || out[0].Value == nil || len(out[0].Value) > 0 {
			t.Errorf("%s: %+v", topic, out)
		}
	}
}

// empty is a codec that makes nothing of a payload.
type empty struct{ sevens }

func (empty) Append([]byte, *thing) ([]byte, error) { return nil, nil }

// A deletion moves the watermark of its source, unless the source has times of its own.
func TestTombstonesAndTheWatermark(t *testing.T) {
	for _, timed := range []bool{false, true} {
		source := framework.Source[thing]{Tombstones: framework.TombstonesPass}
		if timed {
			source.Time = func(v thing) time.Time { return noon.Add(time.Duration(v.N) * time.Second) }
		}
		p := framework.NewPipeline("p")
		in := framework.From(p, "in", source)
		framework.To(processors.Distinct(in, "once", time.Second), "out")
		d := frameworktest.New(t, frameworktest.Config{}, p)
		d.Send("in", valued("1", "k", 0), tombstone("2", "k", 100), valued("3", "k", 1))
		if late := d.Counts("once").Late; (late == 1) == timed {
			t.Errorf("with times of its own %t: %d are late", timed, late)
		}
	}
}

// A deletion that fails is a dead letter that says so, also through JSON, and when it is resubmitted it is one again; unless
// somebody has given it data. So it is where its key was parked, and what waits behind it is run.
func TestTombstonesAreResubmitted(t *testing.T) {
	for _, parks := range []bool{false, true} {
		broken := true
		p := framework.NewPipeline("p")
		if parks {
			p.Park(framework.Parking{})
		}
		in := framework.From(p, "in", framework.Source[thing]{Tombstones: framework.TombstonesPass})
		framework.To(processors.Peek(in, "look", func(e *framework.Event[thing]) {
			if broken && (e.Deleted || e.Data.N == 3) {
				panic("broken")
			}
		}), "out")
		d := frameworktest.New(t, frameworktest.Config{}, p)
		d.Send("in", valued("1", "k", 1), tombstone("2", "k", 2), valued("3", "k", 3), tombstone("4", "k", 4))
		d.Restart()
		broken = false
		for _, f := range d.Faults() {
			if f.Event.Deleted != (f.Event.ID != "3") || f.Event.Data != "" != (f.Event.ID == "3") {
				t.Errorf("fault %+v", f)
			}
			if f.Event.ID == "4" && !parks {
				f.Event.Data = `{"n":5}`
			}
			d.Resubmit(f)
		}
		got := ""
		for _, r := range d.Outputs("out") {
			got += fmt.Sprint(r.ID, " ", string(r.Value), " ", r.Value == nil, ", ")
		}
		last := `4 {"n":5} false, `
		if parks {
			last = `4  true, `
		}
		if want := `1 {"n":1} false, 2  true, 3 {"n":3} false, ` + last; got != want {
			t.Errorf("parked %t: got %s, want %s", parks, got, want)
		}
	}
}

// What is no setting is told when the pipeline is built.
func TestTombstonesIsChecked(t *testing.T) {
	p := framework.NewPipeline("p")
	framework.To(framework.From(p, "in", framework.Source[thing]{Tombstones: 3}), "out")
	if err := p.Validate(); err == nil || !strings.Contains(err.Error(), `source "in": Tombstones is 3`) {
		t.Error(err)
	}
}

// Whatever values are set and deleted, and whichever process has the partitions, with the state of before or none, from a topic
// that was compacted meanwhile or not: each event of left gets the value of its key, and none where it was deleted.
func TestDeletedValuesWherePartitionsMove(t *testing.T) {
	for seed := range uint64(6) {
		random := rand.New(rand.NewPCG(seed, 8))
		gone := seed%2 == 1 // tombstones have left the topic, so a process with the state of before would never hear of them
		b := framework.NewBroker()
		b.Create("left", 2)
		b.Create("right", 2)
		b.Create("out", 1)
		pipeline := func() *framework.Pipeline {
			p := framework.NewPipeline("shared")
			framework.To(processors.JoinLatest(framework.From[thing](p, "left"), framework.From[thing](p, "right"), "latest",
				func(v thing) (int, bool) { return v.N, true }, func(e *framework.Event[thing], n int, found bool) (string, error) {
					return fmt.Sprint(e.ID(), " ", n, " ", found), nil
				}), "out")
			return p
		}
		stores := []*microstore.Store{openStore(t, t.TempDir()), openStore(t, t.TempDir())}
		values, want := map[string]int{}, map[string]bool{}
		run := start(t, b, stores[0], pipeline())
		run.assignAll()
		for step := range 12 {
			for i := range 10 {
				key := fmt.Sprint("k", random.IntN(6))
				if id := fmt.Sprint("r", step, ".", i); random.IntN(3) == 0 {
					b.Append("right", tombstone(id, key, step))
					delete(values, key)
				} else {
					b.Append("right", valued(id, key, step))
					values[key] = step
				}
			}
			awaitAll(t, b, "right")
			for i := range 6 {
				id, key := fmt.Sprint("l", step, ".", i), fmt.Sprint("k", i)
				n, found := values[key]
				want[fmt.Sprintf("%q", fmt.Sprint(id, " ", n, " ", found))] = true
				b.Append("left", valued(id, key, step))
			}
			awaitAll(t, b, "left")
			if random.IntN(2) == 0 {
				b.Compact("right", gone)
			}
			switch random.IntN(4) {
			case 0:
				run.end()
			case 1:
				run.kill()
			default:
				continue
			}
			store := stores[random.IntN(2)]
			if gone || random.IntN(2) == 0 {
				store = openStore(t, t.TempDir())
			}
			run = start(t, b, store, pipeline())
			run.assignAll()
		}
		run.end()
		got := map[string]bool{}
		for _, r := range b.Records("out") {
			got[string(r.Value)] = true
		}
		if !maps.Equal(got, want) {
			t.Errorf("seed %d: got %d outputs, want %d", seed, len(got), len(want))
			for out := range got {
				if !want[out] {
					t.Errorf("seed %d: %s is wrong", seed, out)
				}
			}
		}
		if faults := b.Records("shared.faults"); len(faults) > 0 {
			t.Errorf("seed %d: %d faults: %s", seed, len(faults), faults[0].Value)
		}
	}
}
