package framework_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
)

// passedThings is checked with a count of what passes.
func passedThings(broken *atomic.Bool) *framework.Pipeline {
	p := framework.NewPipeline("shared")
	passed := processors.Map(framework.From[thing](p, "left"), "check", func(e *framework.Event[thing]) (thing, error) {
		if broken.Load() && e.Data.N%10 == 3 {
			return thing{}, errors.New("broken")
		}
		return e.Data, nil
	})
	framework.To(passed, "paired")
	framework.To(processors.Fold(passed, "count", total{}, func(c total, e *framework.Event[thing]) (total, error) {
		return total{e.Key, c.Count + 1}, nil
	}), "counts")
	return p
}

// countedThings is passedThings with a changelog, and parks or not.
func countedThings(broken *atomic.Bool, parks bool) *framework.Pipeline {
	p := passedThings(broken)
	p.Changelog(framework.Changelog{CopyBytes: 2 << 10})
	if parks {
		p.Park(framework.Parking{})
	}
	return p
}

// parkedAndDead has processed things 0..100; of 100..200 it has sent the dead letters, ten, and nothing else: neither what
// came of the others nor that keys are parked. The process is dead, its disk is gone, and nothing is broken any more.
func parkedAndDead(t *testing.T, broken *atomic.Bool) *framework.Broker {
	t.Helper()
	b := sharedBroker(100)
	b.Create("shared.faults", 2)
	one := start(t, b, openStore(t, t.TempDir()), countedThings(broken, true))
	one.assignAllOf(0)
	awaitAll(t, b, "left")
	var away atomic.Bool
	one.member.Takes = func(topic string) bool { return !away.Load() || topic == "shared.faults" }
	away.Store(true)
	broken.Store(true)
	b.Append("left", thingRecords(200, 50, time.Second)[100:]...)
	awaitThat(t, "there are faults", func() bool { return len(b.Records("shared.faults")) >= 10 })
	one.kill()
	broken.Store(false)
	return b
}

// A resubmission that comes to the next process before the event itself is not in vain.
func TestResubmittedBeforeItIsParked(t *testing.T) {
	for _, parks := range []bool{true, false} {
		for _, discard := range []bool{false, true} {
			if discard && !parks {
				continue // the event runs when it comes first, and is left out when the order to discard it does
			}
			t.Run(fmt.Sprint("parks ", parks, "/discard ", discard), func(t *testing.T) {
				var broken atomic.Bool
				b := parkedAndDead(t, &broken)
				r, want := idleRunner(t, b, countedThings(&broken, parks)), 200
				var failed []framework.Fault
				for _, f := range faultsIn(t, b, "shared.faults") {
					if f.Class != framework.ClassParked {
						failed = append(failed, f)
					}
				}
				if discard {
					want -= len(failed)
					if err := r.Discard(t.Context(), failed...); err != nil {
						t.Fatal(err)
					}
				} else {
					resubmit(t, r, failed...)
				}
				c := start(t, b, openStore(t, t.TempDir()), countedThings(&broken, parks))
				c.assignAllOf(0)
				awaitAll(t, b, "left", resubmitted)
				if keys, _ := parkedKeys(t, c.runner); keys != 0 {
					t.Errorf("%d keys are parked though it is decided what becomes of them", keys)
				}
				c.end()
				checkOrder(t, b, want)
			})
		}
	}
}

// The next process does not park: the event runs there.
func TestParkedEventOfAProcessThatDoesNot(t *testing.T) {
	var broken atomic.Bool
	b := parkedAndDead(t, &broken)
	c := start(t, b, openStore(t, t.TempDir()), countedThings(&broken, false))
	c.assignAllOf(0)
	awaitAll(t, b, "left")
	c.end()
	checkOrder(t, b, 200)
}

// An event that had its key parked, in a process that is dead, and fails again in one that does not park, has two dead
// letters: who lists them, by their ids, finds both, and the second runs it.
func TestParkedEventThatFailsWhereNothingParks(t *testing.T) {
	var broken atomic.Bool
	b := parkedAndDead(t, &broken)
	broken.Store(true)
	c := start(t, b, openStore(t, t.TempDir()), countedThings(&broken, false))
	c.assignAllOf(0)
	awaitAll(t, b, "left")
	broken.Store(false)
	resubmit(t, c.runner, faultsIn(t, b, "shared.faults")...)
	awaitAll(t, b, "left", resubmitted)
	c.end()
	if _, ids := countIDs(b, "paired"); ids != 200 {
		t.Errorf("%d events have had an effect, want 200", ids)
	}
	checkCounts(t, b, 200)
}

// What is parked waits also in processes that have stopped parking, and in one that has stopped keeping a changelog, where
// that had it.
func TestParkIsLeftOut(t *testing.T) {
	for name, pipeline := range map[string]func(broken *atomic.Bool, parks bool) *framework.Pipeline{
		"with state": countedThings,
		"without": func(broken *atomic.Bool, parks bool) *framework.Pipeline {
			if parks {
				return parkedThings(broken)
			}
			p := checked(broken)
			p.Changelog(framework.Changelog{CopyBytes: 2 << 10})
			return p
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := sharedBroker(100)
			b.Create("shared.faults", 2)
			var broken atomic.Bool
			broken.Store(true)
			a := start(t, b, openStore(t, t.TempDir()), pipeline(&broken, true))
			a.assignAllOf(0)
			awaitAll(t, b, "left")
			a.end()
			broken.Store(false)
			c := start(t, b, openStore(t, t.TempDir()), pipeline(&broken, false))
			c.assignAllOf(0)
			b.Append("left", thingRecords(150, 50, time.Second)[100:]...)
			awaitAll(t, b, "left")
			if keys, events := parkedKeys(t, c.runner); keys != 5 || events != 15 {
				t.Errorf("%d keys and %d events wait, want 5 and 15", keys, events)
			}
			c.end()
			if name == "with state" {
				c = start(t, b, c.store, passedThings(&broken))
			} else {
				c = start(t, b, c.store, pipeline(&broken, false))
			}
			c.assignAllOf(0)
			b.Append("left", thingRecords(200, 50, time.Second)[150:]...)
			awaitAll(t, b, "left")
			resubmit(t, c.runner, faultsIn(t, b, "shared.faults")...)
			awaitAll(t, b, "left", resubmitted)
			c.end()
			checkOrder(t, b, 200)
		})
	}
}

// Some processes park and some do not, as while a new version is rolled out: nothing is lost.
func TestSomeProcessesPark(t *testing.T) {
	seeds := 4
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		n := 0
		pipeline := func(step *flaky) *framework.Pipeline {
			step.parts = seed%2 == 1
			if n++; n%2 == 0 {
				return parkingPairs(step)
			}
			p := brokenPairs(step)
			p.Changelog(framework.Changelog{CopyBytes: 2 << 10})
			return p
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) { faultsWhileMoving(t, uint64(seed), pipeline, deleteProcessed) })
	}
}

// An event that fails while a state is made anew for the first changelog parks nothing: nothing of its key has waited, and
// the topics have all that is needed when that process dies in the midst of it.
func TestCatchingUpDoesNotPark(t *testing.T) {
	b := sharedBroker(200)
	b.Create("shared.faults", 2)
	var broken atomic.Bool
	old := start(t, b, openStore(t, t.TempDir()), passedThings(&broken))
	old.assignAllOf(0)
	awaitAll(t, b, "left")
	old.end()
	broken.Store(true)
	one := start(t, b, openStore(t, t.TempDir()), countedThings(&broken, true))
	one.assignAllOf(0)
	one.awaitState(framework.TaskCaughtUp, sharedPartitions)
	one.kill()
	if keys, _ := parkedKeys(t, one.runner); keys != 0 {
		t.Errorf("%d keys were parked", keys)
	}
	broken.Store(false)
	b.Remove("shared.left.changelog")
	c := start(t, b, openStore(t, t.TempDir()), countedThings(&broken, true))
	c.assignAllOf(0)
	c.awaitState(framework.TaskCaughtUp, sharedPartitions)
	c.end()
	checkOrder(t, b, 200)
}

// Where the dead letters cannot be read, nobody knows whether keys were parked: the state is not made anew.
func TestParkedKeysThatNobodyKnowsOf(t *testing.T) {
	b := sharedBroker(100)
	b.Create("shared.faults", 2)
	var broken atomic.Bool
	broken.Store(true)
	unreadable := func(c *framework.Config) {
		c.Routes = map[string]framework.Transport{"shared.faults": struct{ framework.Transport }{b.Join()}}
		c.Internal = c.Transport
	}
	a := start(t, b, openStore(t, t.TempDir()), parkedThings(&broken), unreadable)
	a.assignAllOf(0)
	awaitAll(t, b, "left")
	a.end()
	b.Anew("shared.left.changelog")
	c := start(t, b, openStore(t, t.TempDir()), parkedThings(&broken), unreadable)
	c.assignAllOrFail()
	if err := soon(t, c.done); err == nil || !strings.Contains(err.Error(), "cannot be known") {
		t.Errorf("dead letters that cannot be read: %v", err)
	}
}
