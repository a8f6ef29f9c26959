package framework_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
)

const parkCrashEvents = 600

// parkCrashPipeline parks; it fails for some events and timers until there is a file "mended" in dir. Both stages fail.
//
//	orders → check → fold → sums
//	               → expire (timers) → expired
//	               → re-key → check-again → totals
func parkCrashPipeline(mended bool) *framework.Pipeline {
	p := framework.NewPipeline("parks")
	p.Park(framework.Parking{})
	check := func(in *framework.Stream[thing], name string, bad int) *framework.Stream[thing] {
		return processors.Map(in, name, func(e *framework.Event[thing]) (thing, error) {
			if !mended && e.Data.N%41 == bad {
				return thing{}, errors.New("not mended yet")
			}
			return e.Data, nil
		})
	}
	checked := check(framework.From[thing](p, "orders"), "check", 5)
	framework.To(processors.Fold(checked, "fold", "", func(s string, e *framework.Event[thing]) (string, error) {
		return fmt.Sprint(s, " ", e.Data.N), nil
	}), "sums")
	kept := processors.Collect(checked, "kept", processors.CollectConfig{Retain: 5 * time.Minute})
	framework.To(processors.Expire(kept, "expire", 2*time.Minute,
		func(h framework.View[thing], e *framework.Event[thing]) (string, bool, error) {
			if !mended && e.Data.N%43 == 3 {
				return "", false, errors.New("not mended yet")
			}
			return fmt.Sprint(e.Data.N, " among ", h.Len()), true, nil
		}), "expired")
	again := processors.ReKey(checked, "by-amount", func(e *framework.Event[thing]) string { return fmt.Sprint(e.Data.N % 5) })
	framework.To(processors.Map(check(again, "check-again", 7), "total", func(e *framework.Event[thing]) (string, error) {
		return fmt.Sprint(e.Data.N), nil
	}), "totals")
	return p
}

func parkCrash() mendCrash {
	return mendCrash{"TestParkCrashChild", parkCrashPipeline, map[string][]framework.Record{
		"orders": thingRecords(parkCrashEvents, 37, time.Second),
	}}
}

// TestParkCrashChild is the process that dies; it is no test.
func TestParkCrashChild(t *testing.T) { parkCrash().beChild(t) }

// parkCrashResult is what has come out, by topic and key, in order.
func parkCrashResult(t *testing.T, dir string) (all map[string][]string) {
	t.Helper()
	store, err := openCrashStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	all = map[string][]string{}
	topics := topicsIn(t, store)
	for _, topic := range []string{"sums", "expired", "totals"} {
		if _, err := topics.Topic(t.Context(), topic); err != nil {
			continue
		}
		for _, r := range readTopic(t, topics, topic) {
			at := topic + " " + r.Key
			all[at] = append(all[at], r.ID+" "+string(r.Value))
		}
	}
	checkParked(t, store)
	return all
}

// checkParked looks for events that wait for a key that is not parked, and for keys whose events are missing.
func checkParked(t *testing.T, store *microstore.Store) {
	t.Helper()
	tasks, err := store.Tasks()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range tasks {
		task, err := store.Task(name)
		if err != nil {
			t.Fatal(err)
		}
		waiting := map[string]int{}
		history, err := task.History("parked-events", microstore.HistoryConfig{})
		if err != nil {
			t.Fatal(err)
		}
		err = history.All(func(key, _ string, _ *microstore.Entry) bool { waiting[key]++; return true })
		if err != nil {
			t.Fatal(err)
		}
		if keys := tableOf(t, task, "parked-keys"); len(keys) != len(waiting) {
			t.Errorf("%s: %d keys are parked, events wait for %d", name, len(keys), len(waiting))
		}
	}
}

// TestKillWhileParked kills a child at each point of a commit while keys are parked, and again while they are
// resubmitted. At the end all has come out once, each key's in the order of a run in which nothing ever failed.
func TestKillWhileParked(t *testing.T) {
	calm := t.TempDir()
	if err := parkCrash().run(calm, true); err != nil {
		t.Fatal(err)
	}
	want := parkCrashResult(t, calm)
	seed := rand.Uint64()
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir, killed := t.TempDir(), 0
	points := []string{"task.batch", "commit.before", "commit.after", "ack.before", "ack.after", "store.commit.before", "store.commit.after"}
	for _, mended := range []string{"", "yes"} {
		random.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
		for _, point := range points {
			if parkCrash().child(t, dir, fmt.Sprint(point, " ", 1+random.IntN(12)), mended) {
				killed++
			}
			parkCrashResult(t, dir)
			if t.Failed() {
				t.Fatal("after ", point)
			}
		}
		if parkCrash().child(t, dir, "", mended) {
			t.Fatal("a child died by itself")
		}
		if mended == "" {
			total := 0
			for _, some := range parkCrashResult(t, dir) {
				total += len(some)
			}
			if total > 2*parkCrashEvents {
				t.Errorf("%d have come out of at most %d: nothing to speak of was parked", total, 3*parkCrashEvents)
			}
		}
	}
	if parkCrash().child(t, dir, "", "yes") { // what stage two parked meanwhile
		t.Fatal("a child died by itself")
	}
	got := parkCrashResult(t, dir)
	for at := range want {
		a, b := got[at], want[at]
		if strings.HasPrefix(at, "totals") { // the second stage has the events in the order in which the first sent them
			a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
		}
		if !slices.Equal(a, b) {
			t.Errorf("%s:\n  got  %q\n  want %q", at, a, b)
		}
	}
	t.Logf("%d killed", killed)
	if killed < len(points) {
		t.Errorf("only %d of %d children were killed", killed, 2*len(points))
	}
}
