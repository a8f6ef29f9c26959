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

// checkedCounts numbers the events of a key that pass a step.
func checkedCounts(step *flaky, log bool) *framework.Pipeline {
	p := framework.NewPipeline("shared")
	if log {
		p.Changelog(framework.Changelog{})
	}
	checked := step.check(framework.From[thing](p, "left"), "check")
	framework.To(processors.Fold(checked, "count", total{}, func(c total, e *framework.Event[thing]) (total, error) {
		return total{e.Key, c.Count + 1}, nil
	}), "counts")
	return p
}

// A process dies when what failed is in the dead letters, and the group has not heard of it. The next one has the state
// that is just where the group is, in its store or from a changelog: what failed stays failed.
func TestFailedStaysFailedWhereTheGroupIs(t *testing.T) {
	const n = 140
	for _, log := range []bool{false, true} {
		t.Run(fmt.Sprint("changelog ", log), func(t *testing.T) {
			var step flaky
			b := sharedBroker(n)
			b.Create("shared.faults", 3)
			one := start(t, b, openStore(t, t.TempDir()), checkedCounts(&step, log))
			one.assignAll()
			awaitAll(t, b, "left")
			for p := range sharedPartitions {
				one.member.Revoke(t.Context(), 0, p)
			}

			two := start(t, b, openStore(t, t.TempDir()), checkedCounts(&step, log))
			var away atomic.Bool // but for the dead letters
			two.member.Takes = func(topic string) bool { return !away.Load() || topic == "shared.faults" }
			two.assignAllOf(0)
			if log {
				two.awaitState(framework.TaskRestored, sharedPartitions)
			} else {
				two.awaitState(framework.TaskCaughtUp, sharedPartitions)
			}
			away.Store(true)
			step.rest.Store(4)
			b.Append("left", thingRecords(2*n, 50, time.Second)[n:]...)
			awaitThat(t, "there are faults", func() bool { return len(b.Records("shared.faults")) >= n/7 })
			two.kill()
			if behind := b.Behind("left"); behind != n {
				t.Fatalf("the group is %d behind, want %d", behind, n)
			}
			step.rest.Store(0)
			one.assignAllOf(0)
			awaitAll(t, b, "left")
			one.end()
			checkCounts(t, b, 2*n-n/7)
			if faults := len(b.Records("shared.faults")); faults != n/7 {
				t.Errorf("%d faults, want %d", faults, n/7)
			}
		})
	}
}

// assignAllOf gives every partition of a group to a process.
func (p *process) assignAllOf(group int) {
	p.t.Helper()
	for partition := range sharedPartitions {
		if err := p.member.Assign(group, partition); err != nil {
			p.t.Fatal(err)
		}
	}
}

// Dead letters that a process has read when it was where it is, or before, are not read again.
func TestDeadLettersAreReadOnce(t *testing.T) {
	const n, all = 140, 140 / 7
	var step flaky
	step.rest.Store(4)
	b := sharedBroker(0)
	b.Create("shared.faults", 3)
	pipeline := func() *framework.Pipeline { return checkedCounts(&step, false) }
	a := start(t, b, openStore(t, t.TempDir()), pipeline())
	for i, want := range []int64{-1, -1, 0, all, -1, 0} { // the first reads what it writes, the fourth has no disk
		if i == 3 {
			a.end()
			a = start(t, b, openStore(t, t.TempDir()), pipeline())
		}
		a.assignAllOf(0)
		b.Append("left", thingRecords((i+1)*n, 50, time.Second)[i*n:]...) // some in each partition
		awaitAll(t, b, "left")
		for p := range sharedPartitions {
			a.member.Revoke(t.Context(), 0, p)
		}
		step.rest.Store(0)
		// Tasks that ask at the same time read them together.
		if read := a.member.TakeRead(); want >= 0 && (read < want || read > want*sharedPartitions) {
			t.Errorf("assigned for the %d. time, the tasks read %d dead letters, want %d for each pass", i+1, read, want)
		}
	}
	a.end()
}

// Dead letters that cannot be read for a while are waited for; what does not pass ends the run.
func TestDeadLettersAreWaitedFor(t *testing.T) {
	const n = 70
	away := errors.New("no broker answers")
	for _, c := range []struct {
		err  error
		ends bool
	}{{err: framework.Transient(away)}, {err: away, ends: true}} {
		t.Run(fmt.Sprint("ends ", c.ends), func(t *testing.T) {
			var step flaky
			b := sharedBroker(n)
			b.Create("shared.faults", 3)
			p := start(t, b, openStore(t, t.TempDir()), checkedCounts(&step, false))
			var asked atomic.Int32
			p.member.Unread = func() error {
				if asked.Add(1) > 3*sharedPartitions && !c.ends {
					return nil
				}
				return c.err
			}
			if c.ends {
				_ = p.member.Assign(0, 0)
				if err := soon(t, p.done); !errors.Is(err, away) || !strings.Contains(err.Error(), "read dead letters") {
					t.Errorf("it ended with %v", err)
				}
				return
			}
			p.assignAllOf(0)
			awaitAll(t, b, "left")
			p.end()
			checkCounts(t, b, n)
		})
	}
}
