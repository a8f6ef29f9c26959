package framework_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
)

// parkedThings is checked, with keys that wait.
func parkedThings(broken *atomic.Bool) *framework.Pipeline {
	p := checked(broken)
	p.Park(framework.Parking{})
	p.Changelog(framework.Changelog{CopyBytes: 2 << 10})
	return p
}

// idleRunner is a process that can be asked, and does not run.
func idleRunner(t *testing.T, b *framework.Broker, p *framework.Pipeline) *framework.Runner {
	t.Helper()
	r, err := framework.New(framework.Config{Store: openStore(t, t.TempDir()), Transport: b.Join()}, p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// parkedKeys counts the keys of a process that are parked, and the events that wait.
func parkedKeys(t *testing.T, r *framework.Runner) (keys, events int) {
	t.Helper()
	err := r.Parked("shared", func(k framework.ParkedKey) bool {
		keys++
		events += k.Waiting
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys, events
}

// checkOrder checks that things 0..n came out, those of a key in order.
func checkOrder(t *testing.T, b *framework.Broker, n int) {
	t.Helper()
	last, ids := map[string]int{}, map[string]bool{}
	for _, r := range b.Records("paired") {
		var v thing
		if err := json.Unmarshal(r.Value, &v); err != nil {
			t.Fatal(err)
		}
		if ids[r.ID] {
			continue
		}
		ids[r.ID] = true
		if before, ok := last[r.Key]; ok && v.N <= before {
			t.Errorf("%d of key %s comes after %d", v.N, r.Key, before)
		}
		last[r.Key] = v.N
	}
	if len(ids) != n {
		t.Errorf("%d things came out, want %d", len(ids), n)
	}
}

// parked is a process that has processed 100 things, of 50 keys of which five are parked.
func parked(t *testing.T, broken *atomic.Bool, change ...func(*framework.Config)) (*framework.Broker, *process) {
	t.Helper()
	b := sharedBroker(100)
	b.Create("shared.faults", 2)
	broken.Store(true)
	a := start(t, b, openStore(t, t.TempDir()), parkedThings(broken), change...)
	a.assignAll()
	awaitAll(t, b, "left")
	return b, a
}

// A key that is parked stays so when its partition moves to a process that has nothing, though the topic keeps nothing
// that is processed; what waits runs there, in order, and waits no more in a process that had the partition before.
func TestParkedKeysMove(t *testing.T) {
	var broken atomic.Bool
	b, a := parked(t, &broken)
	a.kill()
	deleteProcessedOf(b, "left")

	c := start(t, b, openStore(t, t.TempDir()), parkedThings(&broken))
	c.assignAll()
	b.Append("left", thingRecords(150, 50, time.Second)[100:]...)
	awaitAll(t, b, "left")
	if keys, events := parkedKeys(t, c.runner); keys != 5 || events != 15 {
		t.Errorf("%d keys and %d events wait, want 5 and 15", keys, events)
	}
	if _, ids := countIDs(b, "paired"); ids != 135 {
		t.Errorf("%d things came out while others wait, want 135", ids)
	}
	broken.Store(false)
	resubmit(t, idleRunner(t, b, parkedThings(&broken)), faultsIn(t, b, "shared.faults")...)
	awaitAll(t, b, "left", resubmitted)
	if keys, _ := parkedKeys(t, c.runner); keys != 0 {
		t.Errorf("%d keys are parked after all has run", keys)
	}
	c.end()

	a = start(t, b, a.store, parkedThings(&broken))
	if keys, _ := parkedKeys(t, a.runner); keys != 5 {
		t.Errorf("the process that was killed knows of %d keys", keys)
	}
	a.assignAll()
	b.Append("left", thingRecords(200, 50, time.Second)[150:]...)
	awaitAll(t, b, "left", resubmitted)
	if keys, _ := parkedKeys(t, a.runner); keys != 0 {
		t.Errorf("%d keys are parked with who had the partition before", keys)
	}
	a.end()
	checkOrder(t, b, 200)
}

// Steps fail for a while, partitions move in good order and by death with the disk, the topics keep nothing that is
// processed, and what waits is resubmitted, in vain or not: in the end every pair is there and was counted once.
func TestParkingWhilePartitionsMove(t *testing.T) {
	seeds := 5
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		pipeline := func(step *flaky) *framework.Pipeline {
			step.parts = seed%2 == 1
			return parkingPairs(step)
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) { faultsWhileMoving(t, uint64(seed), pipeline, deleteProcessed) })
	}
}

// parkingPairs is brokenPairs with keys that wait.
func parkingPairs(step *flaky) *framework.Pipeline {
	p := brokenPairs(step)
	p.Park(framework.Parking{})
	p.Changelog(framework.Changelog{CopyBytes: 2 << 10})
	return p
}

// What is parked is nowhere but in the changelog. Without that the state is not made anew from the topics, where the
// event that failed may not fail again and those that wait would be taken for sent.
func TestParkedKeysAreNotMadeAnew(t *testing.T) {
	var broken atomic.Bool
	b, a := parked(t, &broken)
	a.end()
	b.Anew("shared.left.changelog")
	c := start(t, b, openStore(t, t.TempDir()), parkedThings(&broken))
	c.assignAllOrFail()
	err := soon(t, c.done)
	if err == nil || !strings.Contains(err.Error(), "keys were parked") || !strings.Contains(err.Error(), "shared.left.changelog") {
		t.Errorf("parked keys are gone: %v", err)
	}
	a = start(t, b, a.store, parkedThings(&broken)) // this one has them
	a.assignAll()
	broken.Store(false)
	resubmit(t, a.runner, faultsIn(t, b, "shared.faults")...)
	awaitAll(t, b, "left", resubmitted)
	a.end()
	checkOrder(t, b, 100)
}

// A process that does not park has what was parked elsewhere, until that is resubmitted.
func TestParkedKeysOfOthers(t *testing.T) {
	b := sharedBroker(100)
	b.Create("shared.faults", 2)
	var step flaky
	step.rest.Store(4)
	a := start(t, b, openStore(t, t.TempDir()), parkingPairs(&step))
	a.assignAll()
	awaitAll(t, b, sharedTopics...)
	a.end()
	deleteProcessed(b)
	step.rest.Store(0)
	p := brokenPairs(&step)
	p.Changelog(framework.Changelog{CopyBytes: 2 << 10})
	c := start(t, b, openStore(t, t.TempDir()), p)
	c.assignAll()
	feedPairs(b, 100, 200)
	awaitAll(t, b, sharedTopics...)
	if got := len(b.Records("paired")); got >= 150 {
		t.Errorf("%d pairs came out, though keys are parked", got)
	}
	resubmit(t, c.runner, faultsIn(t, b, "shared.faults")...)
	awaitAll(t, b, append([]string{resubmitted}, sharedTopics...)...)
	c.end()
	checkPairs(t, b, 200)
	checkCounts(t, b, 200)
}
