package framework_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
)

// Partitions move at random, between processes that keep their state or have lost it, while what is processed of the
// topic between the stages is let go of, and the positions of the group are kept late: nothing is lost, nothing is
// counted twice.
func TestTrimmedTopicsUnderFaults(t *testing.T) {
	for seed := range 4 {
		t.Run(fmt.Sprint("with a changelog/", seed), func(t *testing.T) {
			b := sharedUnderFaults(t, uint64(seed), loggedPairs, func(b *framework.Broker) {
				b.Lag()
				deleteProcessedOf(b, "left", "right")
			}, sharedTopics...)
			checkShared(t, b)
			checkTrimmed(t, b)
		})
		t.Run(fmt.Sprint("without state/", seed), func(t *testing.T) {
			b := sharedUnderFaults(t, uint64(seed), withoutState, (*framework.Broker).Lag, "left", digits)
			checkPairs(t, b, faultyEvents)
			checkTrimmed(t, b)
		})
	}
}

const digits = "shared.by-digit"

// withoutState re-keys a topic and passes it on.
func withoutState() *framework.Pipeline {
	p := framework.NewPipeline("shared")
	left := framework.From[thing](p, "left")
	framework.To(processors.ReKey(left, "by-digit", func(e *framework.Event[thing]) string { return fmt.Sprint("d", e.Data.N%10) }), "paired")
	return p
}

// checkTrimmed checks that what was processed between the stages is gone, but for the last of it, and nothing else.
func checkTrimmed(t *testing.T, b *framework.Broker) {
	t.Helper()
	for p := range 2 {
		at, _ := b.Marked(digits, p)
		if start := b.Start(digits, p); start == 0 || start > at {
			t.Errorf("%s/%d begins at %d, and the group is at %d", digits, p, start, at)
		}
	}
	if far := b.TooFar(); len(far) > 0 {
		t.Errorf("let go of too soon: %v", far)
	}
}

// What another process makes its state anew from is not let go of: where there is no changelog, and before the group has
// the position.
func TestWhatIsNotTrimmed(t *testing.T) {
	const n = 600
	for name, c := range map[string]struct {
		pipeline func() *framework.Pipeline
		hold     bool
	}{"with state": {sharedPairs, false}, "not committed": {loggedPairs, true}} {
		t.Run(name, func(t *testing.T) {
			b := sharedBroker(n)
			if c.hold {
				b.Hold(digits)
			}
			a := start(t, b, openStore(t, t.TempDir()), c.pipeline())
			a.assignAll()
			awaitAll(t, b, sharedTopics...)
			for p := range 2 {
				if start := b.Start(digits, p); start > 0 {
					t.Errorf("%s/%d begins at %d", digits, p, start)
				}
			}
			a.end()
		})
	}
}

// State that was in a changelog is not made anew from a topic that was trimmed meanwhile: whether the changelog is gone or
// left out, that is an error, and the process with the state goes on.
func TestStateOfTrimmedTopics(t *testing.T) {
	const n = 600
	for name, pipeline := range map[string]func() *framework.Pipeline{"the changelog is gone": loggedPairs, "it is left out": sharedPairs} {
		t.Run(name, func(t *testing.T) {
			b := sharedBroker(n)
			dir := t.TempDir()
			store := openStore(t, dir)
			a := start(t, b, store, loggedPairs())
			a.assignAll()
			awaitAll(t, b, sharedTopics...)
			a.end()
			checkTrimmed(t, b)
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			b.Remove(pairsLog)
			b.Remove(countsLog)

			other := start(t, b, openStore(t, t.TempDir()), pipeline())
			other.assignAllOrFail()
			err := soon(t, other.done)
			for _, want := range []string{"task shared/shared.by-digit/", fmt.Sprintf("topic %q", digits), "has been let go of", countsLog, "SkipGone"} {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Fatalf("Run ended with %v, want %q in it", err, want)
				}
			}

			last := start(t, b, openStore(t, dir), pipeline())
			last.assignAll()
			feedPairs(b, n, 2*n)
			last.await(sharedTopics...)
			last.end()
			checkPairs(t, b, 2*n)
			checkCounts(t, b, 2*n)
		})
	}
	t.Run("what is gone is not missed", func(t *testing.T) {
		b := sharedBroker(0)
		b.Retain(digits)
		b.Create(digits, 2)
		b.Append(digits, thingRecords(100, 50, 0)...)
		for p := range 2 {
			b.Delete(digits, p, 10)
		}
		a := start(t, b, openStore(t, t.TempDir()), sharedPairs())
		a.assignAll()
		feedPairs(b, 0, n)
		a.await(sharedTopics...)
		a.end()
	})
}
