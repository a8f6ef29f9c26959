package framework_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
)

// Timers that failed in a process that has died, with its disk, are run again by the one that has made its state anew, long after
// their windows have closed; by one that takes over from that nothing is sent that would not have been, and no dead letter again.
func TestTimersThatFailedElsewhere(t *testing.T) {
	input := func(b *framework.Broker, from, to int, later time.Duration) {
		for topic, later := range map[string]time.Duration{"left": later, "right": later + 10*time.Minute} { // they never meet
			records := thingRecords(to, 50, time.Second)[from:]
			for i := range records {
				records[i].ID, records[i].Time = topic+records[i].ID, records[i].Time.Add(later)
			}
			b.Append(topic, records...)
		}
	}
	byEvents := func(c *framework.Config) { c.IdleAfter = -1 }
	broker := func() *framework.Broker {
		b := sharedBroker(0)
		for _, topic := range unpaidTopics {
			b.Create(topic, 1)
		}
		b.Create("shared.faults", 2)
		return b
	}
	sent := func(b *framework.Broker) map[string]string {
		all := map[string]string{}
		for _, topic := range unpaidTopics {
			for _, r := range b.Records(topic) {
				id, what := topic+" "+r.ID, fmt.Sprintf("%s %s %s", r.Key, r.Time.Format(time.TimeOnly), r.Value)
				if was, ok := all[id]; ok && was != what {
					t.Errorf("%s was %s, and is %s", id, was, what)
				}
				all[id] = what
			}
		}
		return all
	}
	for _, log := range []bool{false, true} {
		t.Run(fmt.Sprint("changelog=", log), func(t *testing.T) {
			var broken atomic.Bool
			pipeline := func() *framework.Pipeline {
				p := unpaidOf("shared", func(string) bool { return broken.Load() })
				if log {
					p.Changelog(framework.Changelog{CopyBytes: 2 << 10})
				}
				return p
			}
			calm := broker()
			one := start(t, calm, openStore(t, t.TempDir()), pipeline(), byEvents)
			one.assignAll()
			input(calm, 0, 100, 0)
			input(calm, 100, 150, time.Hour)
			awaitAll(t, calm, "left", "right")
			one.end()
			want := sent(calm)

			b := broker()
			broken.Store(true)
			a := start(t, b, openStore(t, t.TempDir()), pipeline(), byEvents)
			a.assignAll()
			input(b, 0, 100, 0)
			awaitAll(t, b, "left", "right")
			a.kill()
			before := len(faultsIn(t, b, "shared.faults"))
			c := start(t, b, openStore(t, t.TempDir()), pipeline(), byEvents)
			c.assignAll()
			input(b, 100, 150, time.Hour)
			awaitAll(t, b, "left", "right")
			faults := faultsIn(t, b, "shared.faults")
			if before == 0 || len(faults) != len(want) || len(sent(b)) != 0 {
				t.Fatalf("%d timers failed, then %d, want %d; %d are sent", before, len(faults), len(want), len(sent(b)))
			}
			broken.Store(false)
			idle, err := framework.New(framework.Config{Store: openStore(t, t.TempDir()), Transport: b.Join()}, pipeline())
			if err != nil {
				t.Fatal(err)
			}
			resubmit(t, idle, faults...)
			awaitAll(t, b, "left", "right", resubmitted)
			sameSent(t, sent(b), want)
			c.end()
			last := start(t, b, openStore(t, t.TempDir()), pipeline(), byEvents)
			last.assignAll()
			resubmit(t, last.runner, faults...)
			awaitAll(t, b, "left", "right", resubmitted)
			last.end()
			sameSent(t, sent(b), want)
			if again := len(faultsIn(t, b, "shared.faults")); again != len(faults) {
				t.Errorf("%d dead letters, want %d", again, len(faults))
			}
		})
	}
}
