package framework_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
)

// oneStep is a pipeline in → step → out.
func oneStep(f func(s *framework.Scope, e *framework.Event[thing]) error) *framework.Pipeline {
	p := framework.NewPipeline("p")
	out := framework.AddStep(framework.From[thing](p, "in"), framework.Step{Name: "step", Kind: "step"},
		func(_ *framework.Step, next framework.Next[thing]) framework.Next[thing] {
			return func(s *framework.Scope, e *framework.Event[thing]) error {
				if err := f(s, e); err != nil {
					return err
				}
				return next(s, e)
			}
		})
	framework.To(out, "out")
	return p
}

// bench is a store with a feed into it.
type bench struct {
	store  *microstore.Store
	feed   *framework.Feed
	config framework.Config
}

func newBench(t *testing.T, records int) *bench {
	t.Helper()
	b := &bench{store: openStore(t, t.TempDir())}
	b.feed = framework.NewFeed(map[string][][]framework.Record{"in": {thingRecords(records, 10, time.Second)}})
	b.config = framework.Config{
		Store: b.store, Transport: topicsIn(t, b.store), Routes: map[string]framework.Transport{"in": b.feed},
		Retry: framework.Retry{First: time.Nanosecond, Most: time.Millisecond},
	}
	return b
}

func (b *bench) runner(t *testing.T, p *framework.Pipeline) *framework.Runner {
	t.Helper()
	r, err := framework.New(b.config, p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (b *bench) stored(t *testing.T) int64 {
	t.Helper()
	at, err := framework.StoredPosition(b.store, "p/in/0", "in")
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func soon(t testing.TB, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second): // a third less than StopTimeout
		t.Fatal("Run has not returned")
		return nil
	}
}

func TestStopLetsRunningWorkEnd(t *testing.T) {
	b := newBench(t, 100)
	entered, leave := make(chan struct{}), make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r := b.runner(t, oneStep(func(s *framework.Scope, e *framework.Event[thing]) error {
		if e.Data.N == 50 {
			close(entered)
			<-leave
			return s.Context().Err()
		}
		return nil
	}))
	done := run(ctx, t, r)
	<-entered
	stop()
	close(leave)
	if err := soon(t, done); err != nil {
		t.Fatal(err)
	}
	if at := b.stored(t); at != 100 {
		t.Errorf("committed to %d", at)
	}
	if at := b.feed.AckedTo("in", 0); at != 100 && at != 0 { // whether the feed hears of it is open: it is closed meanwhile
		t.Errorf("acknowledged to %d", at)
	}
	if got := len(readTopic(t, topicsIn(t, b.store), "out")); got != 100 {
		t.Errorf("%d outputs", got)
	}
}

// A run that is to end while it looks at its sinks ends like any, also where their transport answers all the same.
func TestStopBeforeTheBegin(t *testing.T) {
	b := newBench(t, 1)
	b.feed.Bounded = true
	if err := soon(t, run(t.Context(), t, b.runner(t, oneStep(nothing)))); err != nil { // so that the topics are there
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := soon(t, run(ctx, t, b.runner(t, oneStep(nothing)))); err != nil {
		t.Fatal(err)
	}
}

func TestStopTimeoutCutsContexts(t *testing.T) {
	b := newBench(t, 100)
	b.config.StopTimeout = 50 * time.Millisecond
	entered := make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	asked := time.Time{}
	took := time.Duration(0)
	r := b.runner(t, oneStep(func(s *framework.Scope, e *framework.Event[thing]) error {
		if e.Data.N == 50 {
			close(entered)
			<-s.Context().Done()
			took = time.Since(asked)
			return s.Context().Err()
		}
		return nil
	}))
	done := run(ctx, t, r)
	<-entered
	asked = time.Now()
	stop()
	if err := soon(t, done); !errors.Is(err, framework.ErrStopTimeout) {
		t.Fatalf("%v, want ErrStopTimeout", err)
	}
	if took < b.config.StopTimeout {
		t.Errorf("cut after %v", took)
	}
	if at := b.stored(t); at != 0 || b.feed.AckedTo("in", 0) != 0 {
		t.Errorf("committed to %d, acknowledged to %d", at, b.feed.AckedTo("in", 0))
	}
	// The next run, over the same open store, does it all.
	b.feed.Bounded = true
	if err := b.runner(t, oneStep(func(*framework.Scope, *framework.Event[thing]) error { return nil })).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := len(readTopic(t, topicsIn(t, b.store), "out")); got != 100 {
		t.Errorf("%d outputs", got)
	}
}

// Stopping does not wait for the next attempt at an event for longer than StopTimeout.
func TestStopWhileWaitingToTryAgain(t *testing.T) {
	b := newBench(t, 10)
	b.config.StopTimeout, b.config.Lanes = 20*time.Millisecond, 1
	b.config.Retry = framework.Retry{First: time.Hour, Most: time.Hour}
	retrying := make(chan struct{})
	b.config.Hooks = []framework.Hook{retries(func(framework.RetryInfo) { close(retrying) })}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := run(ctx, t, b.runner(t, oneStep(func(_ *framework.Scope, e *framework.Event[thing]) error {
		return framework.Transient(errors.New("not now"))
	})))
	<-retrying
	stop()
	if err := soon(t, done); !errors.Is(err, framework.ErrStopTimeout) || !strings.Contains(err.Error(), "e0") {
		t.Fatalf("%v, want ErrStopTimeout and the event", err)
	}
	if at := b.stored(t); at != 0 {
		t.Errorf("committed to %d", at)
	}
}

type retries func(framework.RetryInfo)

func (f retries) OnRetry(i framework.RetryInfo) { f(i) }

func nothing(*framework.Scope, *framework.Event[thing]) error { return nil }

// What cannot start says so at once.
func TestStartThatFails(t *testing.T) {
	refused := errors.New("the position is gone")
	for name, change := range map[string]func(b *bench, stop context.CancelFunc){
		"subscribe": func(b *bench, _ context.CancelFunc) { b.feed.Refuse = refused },
		"plugin": func(b *bench, _ context.CancelFunc) {
			b.config.Router = func(r *message.Router) { r.AddPlugin(func(*message.Router) error { return refused }) }
		},
		"stopped": func(b *bench, stop context.CancelFunc) {
			b.config.Router = func(*message.Router) { stop() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 10)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			change(b, stop)
			r := b.runner(t, oneStep(nothing))
			err := soon(t, run(ctx, t, r))
			if want := name != "stopped"; want != errors.Is(err, refused) || !want && err != nil {
				t.Fatal(err)
			}
			if errors.Is(err, framework.ErrStopTimeout) {
				t.Error("it took the whole of StopTimeout")
			}
			if err := r.Run(ctx); err == nil {
				t.Error("it ran twice")
			}
		})
	}
}

// A fatal error ends the run; it names what it was about, and nothing is acknowledged.
func TestFatalErrorStops(t *testing.T) {
	b := newBench(t, 100)
	b.config.BatchEvents = 10
	broken := errors.New("the database is gone")
	err := soon(t, run(t.Context(), t, b.runner(t, oneStep(func(_ *framework.Scope, e *framework.Event[thing]) error {
		if e.Data.N == 55 {
			return framework.Fatal(broken)
		}
		return nil
	}))))
	if !errors.Is(err, broken) {
		t.Fatal(err)
	}
	for _, part := range []string{"p/in/0", `step "step"`, `event "e55"`} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not name %s", err, part)
		}
	}
	if at := b.stored(t); at > 50 || b.feed.AckedTo("in", 0) > at {
		t.Errorf("committed to %d, acknowledged to %d", at, b.feed.AckedTo("in", 0))
	}
	if got := len(readTopic(t, topicsIn(t, b.store), "p.faults")); got > 0 {
		t.Errorf("%d faults", got)
	}
}
