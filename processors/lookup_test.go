package processors_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
	"github.com/millrace/millrace/processors"
)

// scripted is a lookup whose answers a test sets.
type scripted struct {
	calls   atomic.Int64
	running atomic.Int64
	most    atomic.Int64
	answer  func(ctx context.Context, key string) (int, bool, error)
}

func (s *scripted) Lookup(ctx context.Context, key string) (int, bool, error) {
	s.calls.Add(1)
	now := s.running.Add(1)
	defer s.running.Add(-1)
	for most := s.most.Load(); now > most && !s.most.CompareAndSwap(most, now); most = s.most.Load() {
	}
	return s.answer(ctx, key)
}

var errDown = framework.Transient(errors.New("down"))

func TestEnrichMissing(t *testing.T) {
	table := processors.Table(map[string]int{"a": 1})
	named := func(i item, v int) string { return fmt.Sprint(i.Name, v) }
	name := func(i item) string { return i.Name }
	for what, c := range map[string]struct {
		add    func(*framework.Stream[item]) *framework.Stream[string]
		want   []string
		faults int
	}{
		"fault": {func(in *framework.Stream[item]) *framework.Stream[string] {
			return processors.Enrich(in, "enrich", table, name, named)
		}, list("a1"), 1},
		"drop": {func(in *framework.Stream[item]) *framework.Stream[string] {
			return processors.Enrich(in, "enrich", table, name, named, processors.EnrichConfig{Missing: processors.MissingDrop})
		}, list("a1"), 0},
		"maybe": {func(in *framework.Stream[item]) *framework.Stream[string] {
			return processors.EnrichMaybe(in, "enrich", table, name, func(i item, v int, found bool) string { return fmt.Sprint(i.Name, v, found) })
		}, list("a1 true", "b0 false"), 0},
	} {
		t.Run(what, func(t *testing.T) {
			p := framework.NewPipeline("p")
			framework.To(c.add(framework.From[item](p, "in")), "out")
			d := frameworktest.New(t, frameworktest.Config{}, p)
			frameworktest.Send(d, "in", event("a", "k", 0), event("b", "k", 1))
			equal(t, "outputs", inOrder(d, "out"), c.want)
			equal(t, "faults", len(d.Faults()), c.faults)
		})
	}
}

// A time-out is tried again by the engine, another error is not.
func TestEnrichErrors(t *testing.T) {
	tries := map[string]int{}
	lookup := processors.LookupFunc(func(_ context.Context, key string) (int, bool, error) {
		tries[key]++
		switch {
		case key == "slow" && tries[key] < 3:
			return 0, false, fmt.Errorf("service: %w", context.DeadlineExceeded)
		case key == "bad":
			return 0, false, errors.New("bad request")
		}
		return tries[key], true, nil
	})
	p := framework.NewPipeline("p")
	framework.To(processors.Enrich(framework.From[item](p, "in"), "enrich", lookup, func(i item) string { return i.Name },
		func(i item, v int) string { return fmt.Sprint(i.Name, v) }), "out")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	frameworktest.Send(d, "in", event("slow", "k", 0), event("bad", "k", 1), event("good", "k", 2))
	equal(t, "outputs", inOrder(d, "out"), list("slow3", "good1"))
	equal(t, "tries of a bad request", tries["bad"], 1)
	if f := d.Faults(); len(f) != 1 || f[0].Event.ID != "bad" || f[0].Step != "enrich" {
		t.Errorf("faults %+v, want one of bad", f)
	}
}

func TestGuardBoundsTimeAndNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{answer: func(ctx context.Context, _ string) (int, bool, error) {
			<-ctx.Done()
			return 0, false, ctx.Err()
		}}
		guarded := processors.Guard(s, processors.GuardConfig{Timeout: time.Second, Outstanding: 2, Failures: -1})
		began := time.Now()
		var wait sync.WaitGroup
		for range 5 {
			wait.Go(func() {
				_, _, err := guarded.Lookup(t.Context(), "a")
				if !errors.Is(err, context.DeadlineExceeded) || framework.ClassOf(err) != framework.ClassTransient {
					t.Errorf("error %v, want a transient time-out", err)
				}
			})
		}
		wait.Wait()
		// The last two ran in the first one's place at the very end, if at all; none waited longer than its bound.
		equal(t, "time", time.Since(began), time.Second)
		equal(t, "calls at once", s.most.Load(), 2)
	})
}

func TestGuardOpensAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := errDown
		s := &scripted{answer: func(context.Context, string) (int, bool, error) { return 7, err == nil, err }}
		guarded := processors.Guard(s, processors.GuardConfig{Failures: 3, OpenFor: time.Minute})
		try := func() error { _, _, err := guarded.Lookup(t.Context(), "a"); return err }
		for range 5 {
			_ = try()
		}
		equal(t, "calls before the circuit opens", s.calls.Load(), 3)
		if e := try(); !errors.Is(e, processors.ErrOpen) || framework.ClassOf(e) != framework.ClassTransient {
			t.Errorf("error %v, want ErrOpen, transient", e)
		}
		time.Sleep(time.Minute + 1) // of the bubble's clock
		_ = try()
		_ = try()
		equal(t, "one call to see", s.calls.Load(), 4)
		time.Sleep(time.Minute + 1)
		err = nil
		equal(t, "error when it is back", try(), nil)
		err = errors.New("not of the service's health")
		for range 5 {
			_ = try()
		}
		equal(t, "calls with permanent errors", s.calls.Load(), 10)
		err = context.Canceled
		for range 5 {
			_ = try()
		}
		equal(t, "calls that were given up", s.calls.Load(), 15)
		err = errDown
		for range 5 {
			_ = try()
		}
		equal(t, "calls before the circuit opens again", s.calls.Load(), 18)
		time.Sleep(time.Minute + 1)
		err = context.Canceled
		_ = try()
		err = errDown
		_ = try()
		_ = try()
		equal(t, "a call that was given up shows nothing, the next does", s.calls.Load(), 20)
	})
}

func TestCacheRemembersAndForgets(t *testing.T) {
	now := noon
	var down error
	s := &scripted{answer: func(_ context.Context, key string) (int, bool, error) { return len(key), key != "none", down }}
	cached := processors.Cached(s, processors.CacheConfig{
		Entries: 2, TTL: time.Minute, MissingTTL: 10 * time.Second, StaleFor: time.Hour, Now: func() time.Time { return now }})
	ask := func(key string, value int, found bool, failed bool, calls int64) {
		t.Helper()
		v, ok, err := cached.Lookup(t.Context(), key)
		if !failed {
			equal(t, key, fmt.Sprint(v, ok), fmt.Sprint(value, found))
		}
		equal(t, "error", err != nil, failed)
		equal(t, "calls", s.calls.Load(), calls)
	}
	ask("a", 1, true, false, 1)
	ask("a", 1, true, false, 1)
	ask("none", 4, false, false, 2)
	ask("none", 4, false, false, 2)
	now = now.Add(10 * time.Second)
	ask("none", 4, false, false, 3)
	ask("a", 1, true, false, 3)
	ask("bb", 2, true, false, 4) // "none" goes: not asked for longest
	ask("a", 1, true, false, 4)
	ask("none", 4, false, false, 5) // "bb" goes
	ask("bb", 2, true, false, 6)    // "a" goes
	now = now.Add(2 * time.Minute)
	down = errDown
	ask("bb", 2, true, false, 7)
	ask("bb", 2, true, false, 8) // stale answers are asked for again
	ask("c", 0, false, true, 9)
	now = now.Add(2 * time.Hour)
	ask("bb", 0, false, true, 10)
	down = nil
	ask("bb", 2, true, false, 11)
}

func TestCacheSharesCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := &scripted{answer: func(ctx context.Context, _ string) (int, bool, error) {
			select {
			case <-release:
				return 5, true, nil
			case <-ctx.Done():
				return 0, false, ctx.Err()
			}
		}}
		cached := processors.Cached(s, processors.CacheConfig{})
		impatient, give := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		wait.Go(func() {
			if _, _, err := cached.Lookup(impatient, "a"); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want that of its own context", err)
			}
		})
		synctest.Wait()
		for range 4 {
			wait.Go(func() {
				v, ok, err := cached.Lookup(t.Context(), "a")
				equal(t, "answer", fmt.Sprint(v, ok, err), "5 true <nil>")
			})
		}
		synctest.Wait()
		equal(t, "calls", s.calls.Load(), 1)
		give() // the caller whose call it is gives up: another of the waiting makes it
		synctest.Wait()
		equal(t, "calls", s.calls.Load(), 2)
		close(release)
		wait.Wait()
		equal(t, "calls", s.calls.Load(), 2)
	})
}

// A lookup that panics does not leave the others waiting.
func TestCacheSurvivesPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := true
		start := make(chan struct{})
		s := &scripted{answer: func(context.Context, string) (int, bool, error) {
			if first {
				first = false
				<-start
				panic("broken")
			}
			return 1, true, nil
		}}
		cached := processors.Cached(s, processors.CacheConfig{})
		var wait sync.WaitGroup
		wait.Go(func() {
			defer func() { _ = recover() }()
			_, _, _ = cached.Lookup(t.Context(), "a")
			t.Error("no panic")
		})
		synctest.Wait()
		wait.Go(func() {
			v, _, err := cached.Lookup(t.Context(), "a")
			equal(t, "answer", fmt.Sprint(v, err), "1 <nil>")
		})
		synctest.Wait()
		close(start)
		wait.Wait()
	})
}
