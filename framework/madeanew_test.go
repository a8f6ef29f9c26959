package framework_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
)

// What has succeeded in one process fails in the next, which makes the state anew, and then passes its partners: with nothing to
// send, or where the first has died before the group heard of it. Back in the first, whose state has it, the pairs are sent:
// also those of a later absence.
func TestFailedWhereTheStateWasMadeAnew(t *testing.T) {
	const n, half = 70, 35
	all := processors.On(func(v thing) string { return fmt.Sprint(v.N) }, func(v thing) string { return fmt.Sprint(v.N) })
	pairs := func(step *flaky, timers bool) *framework.Pipeline {
		p := framework.NewPipeline("shared")
		left := framework.From[thing](p, "left")
		if timers {
			kept := processors.Collect(left, "kept", processors.CollectConfig{Retain: time.Hour})
			left = processors.Expire(kept, "expired", time.Second,
				func(_ framework.View[thing], e *framework.Event[thing]) (thing, bool, error) {
					return e.Data, true, nil
				})
		}
		framework.To(processors.Join(step.check(left, "check"), framework.From[thing](p, "right"), "pairs", all,
			processors.Window{Within: time.Hour},
			func(a, _ *framework.Event[thing]) (thing, error) { return a.Data, nil }), "paired")
		return p
	}
	for _, what := range []string{"event", "crash", "resubmission", "timer"} {
		t.Run(what, func(t *testing.T) {
			var step flaky
			b := framework.NewBroker()
			for _, topic := range []string{"left", "right", "paired"} {
				b.Create(topic, sharedPartitions)
			}
			b.Create("shared.faults", 2)
			feed := func(topic string, from, to int, later time.Duration) {
				records := thingRecords(to, 50, time.Second)[from:]
				for i := range records {
					records[i].ID = topic + records[i].ID
					records[i].Time = records[i].Time.Add(later)
				}
				b.Append(topic, records...)
			}
			byEvents := func(c *framework.Config) { c.IdleAfter = -1 }
			begin := func(store *microstore.Store) *process {
				return start(t, b, store, pairs(&step, what == "timer"), byEvents)
			}
			// give lets a process have all partitions until what there is has been processed, or caught up with.
			give := func(p *process, do func()) {
				t.Helper()
				before := p.states.count(framework.TaskCaughtUp)
				p.assignAllOf(0)
				if do == nil {
					p.awaitState(framework.TaskCaughtUp, before+sharedPartitions)
				} else {
					do()
					awaitAll(t, b, "left", "right", resubmitted)
				}
				for partition := range sharedPartitions {
					p.member.Revoke(t.Context(), 0, partition)
				}
			}
			pairsNow := func(want int) {
				t.Helper()
				if _, ids := countIDs(b, "paired"); ids != want {
					t.Errorf("%d pairs, want %d", ids, want)
				}
			}

			disk := openStore(t, t.TempDir())
			one, two := begin(disk), begin(openStore(t, t.TempDir()))
			feed("left", 0, n, 0)
			feed("left", n, n+50, 10*time.Minute) // one of each key
			feed("right", n, n+50, 10*time.Minute)
			if what == "crash" {
				one.member.Takes = func(string) bool { return false }
				one.assignAllOf(0)
				awaitThat(t, "all events are processed", func() bool { return one.runner.Counts("shared", "pairs").In >= n+2*50 })
				one.kill()
				step.rest.Store(4)
				give(two, func() {})
				step.rest.Store(0)
				one = begin(disk)
			}
			if what == "resubmission" {
				step.rest.Store(4)
			}
			give(one, func() {
				awaitAll(t, b, "left", "right")
				if what == "resubmission" {
					step.rest.Store(0)
					resubmit(t, one.runner, faultsIn(t, b, "shared.faults")...)
				}
			})
			_, before := countIDs(b, "paired") // of the last, which let the timers before fall due
			for i := range 2 {
				faults := len(b.Records("shared.faults"))
				step.rest.Store(4)
				give(two, func() { feed("right", half*i, half*(i+1), 15*time.Minute) })
				step.rest.Store(0)
				if i == 0 && what != "crash" && len(b.Records("shared.faults")) == faults {
					t.Fatal("nothing has failed where the state was made anew")
				}
				pairsNow(before + half*(i+1) - half/7)
				give(one, nil)
				pairsNow(before + half*(i+1))
			}
			one.end()
			two.end()
		})
	}
}

// What has failed again, because it is in the dead letters, is no reason to send anything twice when the partition comes back.
func TestFailedInEachStateIsNoDifference(t *testing.T) {
	const n = 140
	var step flaky
	b := sharedBroker(0)
	b.Create("shared.faults", 2)
	begin := func() *process {
		p := framework.NewPipeline("shared")
		framework.To(processors.Distinct(step.check(framework.From[thing](p, "left"), "check"), "distinct", time.Hour), "paired")
		return start(t, b, openStore(t, t.TempDir()), p, func(c *framework.Config) { c.IdleAfter = -1 })
	}
	one, two := begin(), begin()
	step.rest.Store(4)
	for i, p := range []*process{one, two, one, two} {
		p.assignAllOf(0)
		b.Append("left", thingRecords((i+1)*n, 50, time.Second)[i*n:]...)
		awaitAll(t, b, "left")
		for partition := range sharedPartitions {
			p.member.Revoke(t.Context(), 0, partition)
		}
		step.rest.Store(0)
	}
	one.end()
	two.end()
	if records, ids := countIDs(b, "paired"); records != 4*n-n/7 || ids != records {
		t.Errorf("%d outputs under %d ids, want %d", records, ids, 4*n-n/7)
	}
}
