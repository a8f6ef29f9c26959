package framework_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
)

// failingAll fails in every way, while it is broken: times that cannot be told (of three in seven), a step (of four), one
// behind a timer (of five); and in any case late events, those below zero. It counts things, and passes on those that
// expire.
func failingAll(broken *atomic.Bool) *framework.Pipeline {
	fails := func(n, rest int) bool { return broken.Load() && n >= 0 && n%7 == rest }
	p := framework.NewPipeline("shared")
	in := framework.From(p, "left", framework.Source[thing]{Time: func(v thing) time.Time {
		if fails(v.N, 3) {
			return time.Time{}
		}
		return noon.Add(time.Duration(v.N) * time.Second)
	}})
	onTime := processors.Filter(in, "on-time", func(e *framework.Event[thing]) bool { return e.Data.N >= 0 })
	check := func(in *framework.Stream[thing], name string, rest int) *framework.Stream[thing] {
		return processors.Map(in, name, func(e *framework.Event[thing]) (thing, error) {
			if fails(e.Data.N, rest) {
				return thing{}, errors.New("broken")
			}
			return e.Data, nil
		})
	}
	counts := processors.Fold(check(onTime, "check", 4), "count", total{}, func(c total, e *framework.Event[thing]) (total, error) {
		return total{e.Key, c.Count + 1}, nil
	})
	framework.To(counts, "counts")
	expired := processors.Expire(processors.Collect(in, "collect", processors.CollectConfig{Retain: 24 * time.Hour}), "expire", time.Second,
		func(_ framework.View[thing], e *framework.Event[thing]) (thing, bool, error) {
			return e.Data, true, nil
		})
	framework.To(check(expired, "check-expired", 5), "paired")
	return p
}

// numbered are the records of things; those of one in seven cannot be decoded.
func numbered(from, to int, id, key string, bad func(n int) bool) (all []framework.Record) {
	for n := from; n < to; n++ {
		r := framework.Record{ID: fmt.Sprint(id, n), Key: fmt.Sprint(key, (n%50+50)%50), Value: fmt.Appendf(nil, `{"n":%d}`, n)}
		if bad(n) {
			r.Value = []byte("no json")
		}
		all = append(all, r)
	}
	return all
}

// sentOnce is a topic whose dead letters are looked at while members come and go.
type sentOnce struct {
	*testing.T
	*framework.Broker
	marks int // marks so far, of each partition
}

const markFrom = 20_000

// mark has a record fail in each partition, and its resubmission too, if asked for: when they are in the dead letters, so is
// all that p has to say of what was before.
func (o *sentOnce) mark(p *process, resubmits bool) {
	o.Helper()
	ids := map[string]bool{}
	for partition := range sharedPartitions {
		n := markFrom + o.marks*sharedPartitions + partition
		key := ""
		for i := 0; key == "" || framework.Partition(key, sharedPartitions) != partition; i++ {
			key = fmt.Sprint("mark", o.marks, ".", i)
		}
		ids[fmt.Sprint("e", n)] = true
		o.Append("left", framework.Record{ID: fmt.Sprint("e", n), Key: key, Value: []byte("no json")})
	}
	o.marks++
	if failed := o.await(ids, false); resubmits {
		resubmit(o.T, p.runner, failed...)
		o.await(ids, true)
	}
}

// await waits for the dead letters of events, by an order or not.
func (o *sentOnce) await(ids map[string]bool, ordered bool) (all []framework.Fault) {
	o.Helper()
	for deadline := time.Now().Add(time.Minute); len(all) < len(ids); time.Sleep(time.Millisecond) {
		all = slices.DeleteFunc(faultsIn(o.T, o.Broker, "shared.faults"), func(f framework.Fault) bool {
			return !ids[f.Event.ID] || (f.Order > 0) != ordered
		})
		if time.Now().After(deadline) {
			o.Fatalf("%d dead letters of %v (by order: %v)", len(all), ids, ordered)
		}
	}
	return all
}

// Whatever fails, in whatever way, is in the dead letters once, however many processes without a state take over: when one
// stops in good order, and when one dies of which nothing but the dead letters is known. Resubmitting all that is there
// counts every event once.
func TestDeadLettersAreSentOnce(t *testing.T) {
	for _, c := range []struct{ log, parks, dies bool }{
		{}, {log: true}, {log: true, parks: true}, {dies: true}, {log: true, dies: true}, {log: true, parks: true, dies: true},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			var broken atomic.Bool
			pipeline := func() *framework.Pipeline {
				p := failingAll(&broken)
				if c.log {
					p.Changelog(framework.Changelog{})
				}
				if c.parks {
					p.Park(framework.Parking{})
				}
				return p
			}
			const n, closing, late = 190, 50, 8
			// What is resubmitted before its key is parked, as by who takes over from the dead, has failed after that: see decided.
			resubmits := !c.parks || !c.dies
			never := func(int) bool { return false }
			b := sharedBroker(0)
			b.Create("shared.faults", 2)
			o := &sentOnce{T: t, Broker: b}
			one := start(t, b, openStore(t, t.TempDir()), pipeline())
			one.assignAllOf(0)
			b.Append("left", numbered(0, 50, "e", "k", never)...)
			awaitAll(t, b, "left")
			one.end()
			for i := range 3 {
				next := start(t, b, openStore(t, t.TempDir()), pipeline())
				var away atomic.Bool // but for the dead letters, and what is resubmitted
				next.member.Takes = func(topic string) bool { return !away.Load() || topic == "shared.faults" || topic == resubmitted }
				begin := make(chan struct{}) // tasks read the dead letters between taking over and processing
				next.member.Unread = func() error { <-begin; return nil }
				next.assignAllOf(0)
				if c.log {
					next.awaitState(framework.TaskRestored, sharedPartitions)
				}
				away.Store(c.dies)
				close(begin)
				if broken.Store(i != 1); i == 0 {
					b.Append("left", numbered(50, n, "e", "k", func(n int) bool { return n%7 == 1 })...)
					b.Append("left", numbered(10_000, 10_000+closing, "e", "k", never)...)
					b.Append("left", numbered(-200_000, -200_000+late, "late", "late", never)...)
					if o.mark(next, resubmits); resubmits {
						resubmit(t, next.runner, faultsIn(t, b, "shared.faults")...) // in vain
					}
				}
				o.mark(next, resubmits)
				if !c.dies {
					awaitAll(t, b, "left", resubmitted)
					next.end()
				} else if next.kill(); b.Behind("left") < n-50 {
					t.Fatalf("the group is %d behind, though it has not heard of anything", b.Behind("left"))
				}
				if records, ids := countIDs(b, "shared.faults"); records != ids {
					t.Errorf("%d dead letters with %d ids when %d processes have been there", records, ids, i+1)
				}
			}
			kinds := map[string]bool{}
			for _, f := range faultsIn(t, b, "shared.faults") {
				kinds[fmt.Sprint(f.Step, " ", f.Class, " again ", f.Order > 0)] = true
			}
			for _, want := range []string{"left permanent", "collect late", "check permanent", "check-expired permanent"} {
				for _, again := range []string{" again false", " again true"} {
					if (resubmits || again == " again false") && !kinds[want+again] {
						t.Errorf("no dead letter is %s%s: %v", want, again, kinds)
					}
				}
			}
			if kinds["left parked again false"] != c.parks {
				t.Errorf("what waits: %v", kinds)
			}

			broken.Store(false)
			last := start(t, b, openStore(t, t.TempDir()), pipeline())
			last.assignAllOf(0)
			awaitAll(t, b, "left", resubmitted)
			for resubmitMended(t, b, last) { // what waited behind others may fail by itself
			}
			counts := last.runner.Counts("shared", "collect")
			if last.end(); int(counts.Late) != len(faultsOfClass(t, b, framework.ClassLate)) {
				t.Errorf("%d events were late, and %d are in the dead letters", counts.Late, len(faultsOfClass(t, b, framework.ClassLate)))
			}
			checkCounts(t, b, n+closing+o.marks*sharedPartitions)
			expired := map[int]bool{}
			for _, r := range b.Records("paired") {
				var v thing
				if err := json.Unmarshal(r.Value, &v); err != nil {
					t.Fatal(err)
				}
				expired[v.N] = true
			}
			for i := range n {
				if !expired[i] {
					t.Errorf("thing %d has not expired", i)
				}
			}
			if records, ids := countIDs(b, "shared.faults"); records != ids {
				t.Errorf("%d dead letters with %d ids in the end", records, ids)
			}
		})
	}
}

// resubmitMended resubmits all that is in the dead letters, with bytes that can be read, and tells whether any of it has
// failed again.
func resubmitMended(t *testing.T, b *framework.Broker, p *process) bool {
	t.Helper()
	before := faultsIn(t, b, "shared.faults")
	again := slices.Clone(before)
	for i := range again {
		if f := &again[i].Event; f.Data == "no json" {
			n, err := strconv.Atoi(strings.TrimPrefix(f.ID, "e"))
			if err != nil {
				t.Fatal(err)
			}
			f.Data = fmt.Sprintf(`{"n":%d}`, n)
		}
	}
	resubmit(t, p.runner, again...)
	awaitAll(t, b, "left", resubmitted)
	after := faultsIn(t, b, "shared.faults")
	return slices.ContainsFunc(after, func(f framework.Fault) bool {
		return f.Class != framework.ClassLate && !slices.ContainsFunc(before, func(g framework.Fault) bool {
			return f.Event.ID == g.Event.ID && f.Order == g.Order && f.Step == g.Step
		})
	})
}

func faultsOfClass(t *testing.T, b *framework.Broker, class framework.Class) []framework.Fault {
	t.Helper()
	return slices.DeleteFunc(faultsIn(t, b, "shared.faults"), func(f framework.Fault) bool { return f.Class != class })
}
