package framework_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/processors"
)

// What another process may have to read again is not let go of, however far this one has come.
func TestSharedTopicsAreNotReleased(t *testing.T) {
	const n = 9000 // more than is let go of at once
	b := sharedBroker(0)
	for i := 0; i < n; i += 500 {
		feedPairs(b, i, i+500)
	}
	var keeper *framework.Keeper
	a := start(t, b, openStore(t, t.TempDir()), sharedPairs(), func(c *framework.Config) {
		keeper = &framework.Keeper{Member: c.Transport.(*framework.Member)}
		c.Transport, c.InternalPartitions, c.BatchEvents = keeper, 1, 500
	})
	a.assignAll()
	awaitAll(t, b, sharedTopics...)
	a.end()
	checkCounts(t, b, n)
	if released := keeper.Released.Load(); released > 0 {
		t.Errorf("records were let go of %d times", released)
	}
}

// A step that fails while a process catches up may not have failed in the one before: its events are in the dead
// letters, though nothing else is sent.
func TestFaultsOfCatchingUpAreKept(t *testing.T) {
	const n, more = 100, 50
	b := sharedBroker(n)
	b.Create("shared.faults", 1)
	var down atomic.Bool
	pipeline := func() *framework.Pipeline {
		p := framework.NewPipeline("shared")
		from := func(topic string) *framework.Stream[thing] {
			return framework.From(p, topic, framework.Source[thing]{OutOfOrder: time.Hour})
		}
		left := processors.Map(from("left"), "look", func(e *framework.Event[thing]) (thing, error) {
			if down.Load() {
				return thing{}, errors.New("the lookup is down")
			}
			return e.Data, nil
		})
		number := func(v thing) string { return fmt.Sprint(v.N) }
		framework.To(processors.Join(left, from("right"), "pairs", processors.On(number, number),
			processors.Window{Within: time.Hour},
			func(a, _ *framework.Event[thing]) (thing, error) { return a.Data, nil }), "paired")
		return p
	}
	a := start(t, b, openStore(t, t.TempDir()), pipeline())
	a.assignAll()
	lefts := thingRecords(n+more, 50, time.Second)[n:]
	b.Append("left", lefts...)
	awaitAll(t, b, "left", "right")
	a.end()

	down.Store(true)
	caughtUp := make(chan struct{}, sharedPartitions)
	c := start(t, b, openStore(t, t.TempDir()), pipeline())
	c.states.onTask = func(i framework.TaskInfo) {
		if i.State == framework.TaskCaughtUp {
			caughtUp <- struct{}{}
		}
	}
	c.assignAll()
	for range sharedPartitions {
		<-caughtUp
	}
	down.Store(false)
	for _, r := range lefts {
		r.ID = "right-" + r.ID
		b.Append("right", r)
	}
	awaitAll(t, b, "left", "right")
	c.end()
	faults := map[string]bool{}
	for _, r := range b.Records("shared.faults") {
		faults[r.ID] = true
	}
	if len(faults) != n+more || len(b.Records("paired")) != n {
		t.Errorf("%d events are in the dead letters, want %d; %d pairs were sent, want %d",
			len(faults), n+more, len(b.Records("paired")), n)
	}
}

// A partition that never had an event holds nothing back, also after the next stage has moved.
func TestIdleIsToldToAStageThatMoves(t *testing.T) {
	b := framework.NewBroker()
	b.Create("left", 2)
	b.Create("counts", 1)
	p := framework.NewPipeline("shared")
	byDigit := processors.ReKey(framework.From[thing](p, "left"), "by-digit", func(*framework.Event[thing]) string { return "d" })
	framework.To(byDigit, "counts")
	records := thingRecords(20, 1, time.Hour) // of one key, so that one partition stays empty
	reached := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
	next := 0
	a := start(t, b, openStore(t, t.TempDir()), p, func(c *framework.Config) {
		c.IdleAfter, c.InternalPartitions = 20*time.Millisecond, 1
	})
	a.states.onCommit = func(i framework.CommitInfo) {
		if i.Task != "shared/shared.by-digit/0" || next == len(reached) || i.Watermark.Before(records[10*next+9].Time) {
			return
		}
		close(reached[next])
		next++
	}
	a.assignAll()
	for i := range reached {
		b.Append("left", records[10*i:10*i+10]...)
		select {
		case <-reached[i]:
		case <-time.After(20 * time.Second):
			t.Fatalf("event time stands still after %d moves", i)
		}
		a.member.Revoke(t.Context(), 1, 0)
		if err := a.member.Assign(1, 0); err != nil {
			t.Fatal(err)
		}
	}
	a.end()
}

// A partition that there was not at the start cannot be read, and that is said.
func TestPartitionsThatAreAdded(t *testing.T) {
	b := sharedBroker(10)
	a := start(t, b, openStore(t, t.TempDir()), sharedPairs())
	a.assignAll()
	b.Create("left", sharedPartitions+2)
	refused := a.member.Assign(0, sharedPartitions+1)
	if refused == nil {
		t.Fatal("a partition was assigned that there was not at the start")
	}
	a.member.Fail("left", sharedPartitions+1, refused)
	if err := soon(t, a.done); !errors.Is(err, refused) {
		t.Errorf("Run returned %v, want %v", err, refused)
	}
}

// Resubmitted events wait for the next stage as others do.
func TestResubmissionWaitsForTheNextStage(t *testing.T) {
	const n, bound = 1000, 5_000
	b := newBench(t, 0)
	topics := topicsIn(t, b.store)
	var records []framework.Record
	for i, r := range large(n, 1000)[0] {
		r.Key, r.Time = "k", noon.Add(time.Duration(i)*time.Second)
		records = append(records, r)
	}
	b.feed = framework.NewFeed(map[string][][]framework.Record{"in": {records}})
	b.config.Routes["in"] = b.feed
	b.config.BacklogBytes, b.config.InternalPartitions, b.config.BatchEvents = bound, 1, 10
	var broken atomic.Bool
	broken.Store(true)
	block := make(chan struct{})
	p := framework.NewPipeline("p")
	p.Park(framework.Parking{})
	step := processors.Map(framework.From[thing](p, "in"), "step", func(e *framework.Event[thing]) (thing, error) {
		if broken.Load() {
			return thing{}, errors.New("broken")
		}
		return e.Data, nil
	})
	again := processors.ReKey(step, "again", func(*framework.Event[thing]) string { return "r" })
	framework.To(processors.Peek(again, "slow", func(*framework.Event[thing]) { <-block }), "out")
	faults := make(chan framework.Fault, 2*n)
	b.config.Hooks = []framework.Hook{faultsTo(faults)}
	r := b.runner(t, p)
	done := run(t.Context(), t, r)
	first := <-faults
	for range len(records) - 1 {
		<-faults
	}
	broken.Store(false)
	full := make(chan struct{}, 1)
	defer failpoint.Arm("task.full", func() error {
		select {
		case full <- struct{}{}:
		default:
		}
		return nil
	})()
	if err := r.Resubmit(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	select {
	case <-full:
	case <-time.After(20 * time.Second):
		t.Error("nothing waits for the next stage")
	}
	if _, _, bytes, err := topics.Held("p.again", 0, 0); err != nil || bytes > bound+20_000 { // and what one commit runs again
		t.Errorf("%d bytes wait for the next stage, the bound is %d: %v", bytes, bound, err)
	}
	close(block)
	b.feed.End("in", 0)
	if err := soon(t, done); err != nil {
		t.Error(err)
	}
}

// A round that is taken back, since it does not fit a commit, does not count as keys that are parked.
func TestParkingDoesNotCountRoundsTakenBack(t *testing.T) {
	const keys = 100
	d := frameworktest.New(t, frameworktest.Config{MemoryBytes: 32 << 20},
		failing(func(int) bool { return true }, framework.Parking{MaxKeys: keys}))
	var events []*framework.Event[thing]
	for i := range keys {
		e := framework.NewEvent(fmt.Sprint("e", i), fmt.Sprint("key", i), noon, thing{i})
		e.Metadata = map[string]string{"x": strings.Repeat("y", 6000)}
		events = append(events, e)
	}
	frameworktest.Send(d, "in", events...)
	if parked := d.Parked(); len(parked) != keys {
		t.Errorf("%d keys are parked, want %d", len(parked), keys)
	}
}
