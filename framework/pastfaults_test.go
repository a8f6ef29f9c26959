package framework_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
)

// flaky is a step that fails for one in seven, while it is broken for them.
type flaky struct {
	rest  atomic.Int64 // of the number by 7, plus 1; 0: it works
	parts bool         // each thing is the only part of one
}

func (b *flaky) check(in *framework.Stream[thing], name string) *framework.Stream[thing] {
	if b.parts {
		in = processors.Split(in, name+"-parts", func(e *framework.Event[thing]) ([]thing, error) { return []thing{e.Data}, nil })
	}
	return processors.Map(in, name, func(e *framework.Event[thing]) (thing, error) {
		if rest := b.rest.Load(); rest > 0 && int64(e.Data.N%7) == rest-1 {
			return thing{}, errors.New("broken")
		}
		return e.Data, nil
	})
}

// What failed in one process stays failed in the one that makes the state anew, though it would succeed there, until it
// is resubmitted: then what it causes is sent.
func TestFailedStaysFailed(t *testing.T) {
	const n = 140
	var step flaky
	pipeline := func() *framework.Pipeline {
		p := framework.NewPipeline("shared")
		checked := step.check(framework.From[thing](p, "left"), "check")
		framework.To(processors.Distinct(checked, "distinct", time.Hour), "paired")
		return p
	}
	b := sharedBroker(n)
	b.Create("shared.faults", 3)
	step.rest.Store(4)
	a := start(t, b, openStore(t, t.TempDir()), pipeline())
	a.assignAll()
	awaitAll(t, b, "left", resubmitted)
	a.end()
	step.rest.Store(0)
	c := start(t, b, openStore(t, t.TempDir()), pipeline())
	c.assignAll()
	b.Append("left", thingRecords(n+7, 50, time.Second)[n:]...)
	awaitAll(t, b, "left", resubmitted)
	if records, ids := countIDs(b, "paired"); records != n*6/7+7 || ids != records {
		t.Fatalf("%d outputs with %d ids, want %d", records, ids, n*6/7+7)
	}
	faults := faultsIn(t, b, "shared.faults")
	if len(faults) != n/7 || len(b.Records("shared.faults")) != n/7 {
		t.Errorf("%d faults, want %d, once each", len(b.Records("shared.faults")), n/7)
	}
	if counts := c.runner.Counts("shared", "check"); counts.Faults != n/7 {
		t.Errorf("counts %+v, want %d faults", counts, n/7)
	}
	resubmit(t, c.runner, faults...)
	awaitAll(t, b, "left", resubmitted)
	if records, ids := countIDs(b, "paired"); records != n+7 || ids != n+7 {
		t.Errorf("%d outputs with %d ids, want %d", records, ids, n+7)
	}
	c.end()
}

// A state that is made anew has what was resubmitted, once, though it was first resubmitted in vain.
func TestResubmissionsAreMadeAnew(t *testing.T) {
	const n = 140
	var step flaky
	pipeline := func() *framework.Pipeline {
		p := framework.NewPipeline("shared")
		checked := step.check(framework.From[thing](p, "left"), "check")
		framework.To(processors.Fold(checked, "count", total{}, func(c total, e *framework.Event[thing]) (total, error) {
			return total{e.Key, c.Count + 1}, nil
		}), "counts")
		return p
	}
	b := sharedBroker(n)
	b.Create("shared.faults", 1)
	step.rest.Store(4)
	a := start(t, b, openStore(t, t.TempDir()), pipeline())
	a.assignAll()
	awaitAll(t, b, "left", resubmitted)
	first := faultsIn(t, b, "shared.faults")
	resubmit(t, a.runner, first...) // in vain
	awaitAll(t, b, "left", resubmitted)
	step.rest.Store(0)
	resubmit(t, a.runner, faultsIn(t, b, "shared.faults")[len(first):]...)
	awaitAll(t, b, "left", resubmitted)
	checkCounts(t, b, n)
	a.end()

	step.rest.Store(2) // other events would fail, if they had not been processed
	c := start(t, b, openStore(t, t.TempDir()), pipeline())
	caughtUp := make(chan struct{}, sharedPartitions)
	c.states.onTask = func(i framework.TaskInfo) {
		if i.State == framework.TaskCaughtUp {
			caughtUp <- struct{}{}
		}
	}
	step.rest.Store(0)
	c.assignAll()
	for range sharedPartitions {
		<-caughtUp
	}
	sent := len(b.Records("counts"))
	if sent != n {
		t.Errorf("%d counts were sent, want %d", sent, n)
	}
	b.Append("left", thingRecords(n+50, 50, time.Second)[n:]...) // one of each key
	awaitAll(t, b, "left", resubmitted)
	c.end()
	checkCounts(t, b, n+50)
}

// Steps fail for a while, partitions move in good order and by death, with the disk and without, and what is in the dead letters
// is resubmitted, in the midst of it and at the end: then every pair is there, under one id, and counted once.
func TestFaultsWhilePartitionsMove(t *testing.T) {
	seeds := 5
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			faultsWhileMoving(t, uint64(seed), brokenPairs, func(*framework.Broker) {})
		})
	}
}

func brokenPairs(step *flaky) *framework.Pipeline {
	p := framework.NewPipeline("shared")
	from := func(topic string) *framework.Stream[thing] {
		return step.check(framework.From(p, topic, framework.Source[thing]{OutOfOrder: time.Hour}), "check-"+topic)
	}
	number := func(v thing) string { return fmt.Sprint(v.N) }
	pairs := processors.Join(from("left"), from("right"), "pairs", processors.On(number, number),
		processors.Window{Within: time.Hour},
		func(a, _ *framework.Event[thing]) (thing, error) { return a.Data, nil })
	framework.To(pairs, "paired")
	byDigit := processors.ReKey(pairs, "by-digit", func(e *framework.Event[thing]) string { return fmt.Sprint("d", e.Data.N%10) })
	counts := processors.Fold(byDigit, "count", total{}, func(c total, e *framework.Event[thing]) (total, error) {
		return total{e.Key, c.Count + 1}, nil
	})
	framework.To(counts, "counts")
	return p
}

func faultsWhileMoving(t *testing.T, seed uint64, pipeline func(*flaky) *framework.Pipeline, each func(*framework.Broker)) {
	const n, steps = 700, 30
	random := rand.New(rand.NewPCG(seed, 2))
	var step flaky
	b := sharedBroker(n / steps)
	b.Create("shared.faults", 2)
	b.Lag()
	topics := append([]string{resubmitted, "shared.by-digit.resubmit"}, sharedTopics...)
	all := make([]*process, 3)
	stores := make([]*microstore.Store, len(all))
	begin := func(i int) {
		if stores[i] == nil {
			stores[i] = openStore(t, t.TempDir())
		}
		all[i] = start(t, b, stores[i], pipeline(&step), func(c *framework.Config) {
			c.BatchEvents, c.Lanes = 1+random.IntN(40), 1+random.IntN(3)
		})
	}
	for i := range all {
		begin(i)
	}
	type place struct{ group, partition int }
	owner := map[place]int{}
	var places []place
	give := func(at place) {
		to := random.IntN(len(all))
		if err := all[to].member.Assign(at.group, at.partition); err != nil {
			t.Fatal(err)
		}
		owner[at] = to
	}
	for p := range sharedPartitions {
		places = append(places, place{0, p})
	}
	places = append(places, place{1, 0}, place{1, 1})
	for _, at := range places {
		give(at)
	}
	done := 0 // faults that have been resubmitted
	again := func() (more bool) {
		faults := faultsIn(t, b, "shared.faults")
		resubmit(t, all[random.IntN(len(all))].runner, faults[done:]...)
		more, done = len(faults) > done, len(faults)
		return more
	}
	for i := 1; i < steps; i++ {
		feedPairs(b, n*i/steps, n*(i+1)/steps)
		each(b)
		step.rest.Store(int64(max(0, random.IntN(12)-4)))
		at := places[random.IntN(len(places))]
		switch random.IntN(4) {
		case 0, 1:
			all[owner[at]].member.Revoke(t.Context(), at.group, at.partition)
			give(at)
		case 2:
			dead := random.IntN(len(all))
			all[dead].kill()
			if random.IntN(2) == 0 {
				stores[dead] = nil
			}
			begin(dead)
			for _, at := range places {
				if owner[at] == dead {
					give(at)
				}
			}
		case 3:
			again()
		}
	}
	step.rest.Store(0)
	awaitAll(t, b, topics...)
	done = 0
	for again() {
		awaitAll(t, b, topics...)
	}
	for i := range all {
		all[i].end()
	}
	t.Logf("%d faults, %d duplicates", done, checkPairs(t, b, n))
	checkCounts(t, b, n)
}

// What failed in another topic of the same name says nothing of the events that are at its offsets now.
func TestFaultsOfAnotherTopic(t *testing.T) {
	const n = 140
	var step flaky
	pipeline := func() *framework.Pipeline {
		p := framework.NewPipeline("shared")
		framework.To(processors.Distinct(step.check(framework.From[thing](p, "left"), "check"), "distinct", time.Hour), "paired")
		return p
	}
	b := sharedBroker(n)
	b.Create("shared.faults", 1)
	step.rest.Store(4)
	a := start(t, b, openStore(t, t.TempDir()), pipeline())
	a.assignAll()
	awaitAll(t, b, "left", resubmitted)
	a.end()
	step.rest.Store(0)
	b.Remove("left")
	b.Create("left", sharedPartitions)
	b.Append("left", thingRecords(2*n, 50, time.Second)[n:]...)
	c := start(t, b, openStore(t, t.TempDir()), pipeline())
	c.assignAll()
	awaitAll(t, b, "left", resubmitted)
	c.end()
	if got, want := len(b.Records("paired")), n*6/7+n; got != want {
		t.Errorf("%d outputs, want %d", got, want)
	}
	if faults := len(b.Records("shared.faults")); faults != n/7 {
		t.Errorf("%d faults, want %d", faults, n/7)
	}
}
