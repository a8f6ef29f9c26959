package framework_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
)

var errAway = errors.New("no broker answers")

// A process takes partitions over whose brokers are away: with a changelog, and without.
func TestBrokersAwayAtATakeOver(t *testing.T) {
	for name, pipeline := range map[string]func() *framework.Pipeline{"with a changelog": loggedPairs, "without": sharedPairs} {
		t.Run(name, func(t *testing.T) { brokersAway(t, pipeline) })
	}
}

func brokersAway(t *testing.T, pipeline func() *framework.Pipeline) {
	const n = 60
	// begun is a process that is to take partitions over, and a count of how often it was told that brokers are away.
	begun := func(t *testing.T, why error, times int64) (*framework.Broker, *process, chan struct{}, *atomic.Bool) {
		b := sharedBroker(n)
		before := start(t, b, openStore(t, t.TempDir()), pipeline())
		before.assignAll()
		awaitAll(t, b, sharedTopics...)
		before.end()
		p := start(t, b, openStore(t, t.TempDir()), pipeline())
		var told atomic.Int64
		back := new(atomic.Bool)
		waits := make(chan struct{})
		p.member.Away = func() error {
			if back.Load() {
				return nil
			}
			if told.Add(1) == times {
				close(waits)
			}
			return why
		}
		return b, p, waits, back
	}
	assigned := func(ctx context.Context, p *process) <-chan error {
		done := make(chan error, 1)
		go func() { done <- p.member.AssignIn(ctx, 1, 0) }()
		return done
	}
	all := func(t *testing.T, b *framework.Broker, p *process) {
		feedPairs(b, n, 2*n)
		p.await(sharedTopics...)
		p.end()
		checkPairs(t, b, 2*n)
		checkCounts(t, b, 2*n)
	}
	awaitThat := func(t *testing.T, waits chan struct{}) {
		t.Helper()
		select {
		case <-waits:
		case <-time.After(time.Minute):
			t.Fatal("nobody waits")
		}
	}
	within := func(t *testing.T, done <-chan error) error {
		t.Helper()
		select {
		case err := <-done:
			return err
		case <-time.After(time.Minute):
			t.Fatal("the take-over does not end")
			return nil
		}
	}

	t.Run("they come back", func(t *testing.T) {
		b, p, waits, back := begun(t, framework.Transient(errAway), 20)
		done := assigned(t.Context(), p)
		awaitThat(t, waits)
		back.Store(true)
		if err := within(t, done); err != nil {
			t.Fatal(err)
		}
		p.member.Revoke(t.Context(), 1, 0)
		p.assignAll()
		all(t, b, p)
	})
	t.Run("the group takes the partition back", func(t *testing.T) {
		b, p, waits, back := begun(t, framework.Transient(errAway), 3)
		ctx, taken := context.WithCancel(t.Context())
		done := assigned(ctx, p)
		awaitThat(t, waits)
		taken()
		if err := within(t, done); !errors.Is(err, context.Canceled) {
			t.Fatalf("it is assigned: %v", err)
		}
		back.Store(true)
		p.assignAll()
		all(t, b, p)
	})
	t.Run("another group does not wait", func(t *testing.T) {
		b, p, _, _ := begun(t, nil, 0)
		asked, release := make(chan struct{}), make(chan struct{})
		var once atomic.Bool
		p.member.Away = func() error { // whoever asks first has no answer for long
			if once.CompareAndSwap(false, true) {
				close(asked)
				<-release
			}
			return nil
		}
		done := assigned(t.Context(), p)
		awaitThat(t, asked)
		other := make(chan error, 1)
		go func() { other <- p.member.Assign(0, 0) }()
		err := within(t, other)
		close(release)
		if err := errors.Join(err, within(t, done)); err != nil {
			t.Fatal(err)
		}
		p.member.Revoke(t.Context(), 1, 0)
		p.member.Revoke(t.Context(), 0, 0)
		p.assignAll()
		all(t, b, p)
	})
	t.Run("the process stops", func(t *testing.T) {
		_, p, waits, _ := begun(t, framework.Transient(errAway), 3)
		done := assigned(t.Context(), p)
		awaitThat(t, waits)
		p.end()
		if err := within(t, done); !errors.Is(err, context.Canceled) {
			t.Errorf("it is assigned: %v", err)
		}
	})
	t.Run("it does not pass", func(t *testing.T) {
		_, p, _, _ := begun(t, errAway, 1)
		if err := within(t, assigned(t.Context(), p)); !errors.Is(err, errAway) {
			t.Errorf("it is assigned: %v", err)
		}
		if err := soon(t, p.done); !errors.Is(err, errAway) {
			t.Errorf("the run ended with %v", err)
		}
	})
}
