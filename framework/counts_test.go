package framework_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/framework"
)

// The counts of a process never fall, whatever becomes of the partitions that it has; one that comes back counts what
// others have done with it meanwhile.
func TestCountsDoNotFall(t *testing.T) {
	const n = 60
	for _, changelog := range []bool{false, true} {
		t.Run(fmt.Sprint("changelog ", changelog), func(t *testing.T) {
			pipeline := sharedPairs
			if changelog {
				pipeline = loggedPairs
			}
			b := sharedBroker(n)
			a := start(t, b, openStore(t, t.TempDir()), pipeline())
			in := func(p *process) int64 { return p.runner.Counts("shared", "left").In }
			check := func(p *process, want int64) {
				t.Helper()
				if got := in(p); got != want {
					t.Errorf("%d events have come in, want %d", got, want)
				}
			}
			least := atomic.Int64{}
			a.states.onTask = func(i framework.TaskInfo) {
				if got, want := in(a), least.Load(); got < want {
					t.Errorf("%s, %s: %d events have come in, and before it were %d", i.Task, i.State, got, want)
				}
			}
			a.assignAll()
			awaitAll(t, b, sharedTopics...)
			check(a, n)
			least.Store(n)

			for partition := range sharedPartitions {
				a.member.Revoke(t.Context(), 0, partition)
				check(a, n)
			}
			c := start(t, b, openStore(t, t.TempDir()), pipeline())
			for partition := range sharedPartitions {
				if err := c.member.Assign(0, partition); err != nil {
					t.Fatal(err)
				}
			}
			feedPairs(b, n, 2*n)
			awaitAll(t, b, sharedTopics...)
			check(c, 2*n) // what a has counted came with the state, or was read again
			c.end()
			check(c, 2*n)
			check(a, n)

			for partition := range sharedPartitions {
				if err := a.member.Assign(0, partition); err != nil {
					t.Fatal(err)
				}
			}
			feedPairs(b, 2*n, 3*n)
			awaitAll(t, b, sharedTopics...)
			check(a, 3*n)
			a.end()
			check(a, 3*n)
		})
	}
}
