package framework_test

import (
	"context"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/memory"
)

// released tells when a sink has taken records.
type released func(framework.ReleaseInfo)

func (f released) OnRelease(i framework.ReleaseInfo) { f(i) }

// TestSilentPartitions: partitions of a source that never had an event do not hold back the stages after it.
func TestSilentPartitions(t *testing.T) {
	store := openStore(t, t.TempDir())
	in, err := memory.New(memory.Config{Partitions: 4, AutoCreate: true})
	if err != nil {
		t.Fatal(err)
	}
	p := framework.NewPipeline("p")
	things := framework.From[thing](p, "in")
	again := framework.AddReKey(things, "again", framework.ReKey[thing]{Key: func(e *framework.Event[thing]) string { return e.Key }})
	twice := framework.AddReKey(again, "twice", framework.ReKey[thing]{Key: func(e *framework.Event[thing]) string { return e.Key }})
	timed := framework.AddStep(twice, framework.Step{Name: "timed", Kind: "timed"},
		func(st *framework.Step, next framework.Next[string]) framework.Next[thing] {
			st.OnTimer = func(s *framework.Scope, t framework.Timer) error { return emit(s, st, t, t.ID, next) }
			return func(s *framework.Scope, e *framework.Event[thing]) error {
				return s.SetTimer(st, e.Time.Add(time.Hour), e.ID(), nil)
			}
		})
	framework.To(timed, "out")
	fired := make(chan framework.ReleaseInfo, 10)
	r, err := framework.New(framework.Config{
		Store: store, Transport: topicsIn(t, store), IdleAfter: 20 * time.Millisecond,
		Routes: map[string]framework.Transport{"in": in, "out": in},
		Hooks:  []framework.Hook{released(func(i framework.ReleaseInfo) { fired <- i })},
	}, p)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	if err := in.Publish("in", record("a", 0, 1), record("b", 2*time.Hour, 1)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-fired:
	case <-time.After(3 * time.Second):
		t.Error("the timer did not fire: event time stands still")
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
