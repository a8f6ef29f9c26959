package framework_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
)

// tried runs 100 events through a step that keeps a count in a table, with middlewares around each.
func tried(t *testing.T, step func(s *framework.Scope, e *framework.Event[thing], attempt int) error, middlewares ...message.HandlerMiddleware) *frameworktest.Driver {
	t.Helper()
	var lock sync.Mutex
	attempts := map[string]int{}
	table := framework.NewTable[int]("table", nil)
	p := framework.NewPipeline("p")
	out := framework.AddStep(framework.From[thing](p, "in"), framework.Step{Name: "step", Kind: "step", States: []framework.State{table}},
		func(st *framework.Step, next framework.Next[int]) framework.Next[thing] {
			return func(s *framework.Scope, e *framework.Event[thing]) error {
				n, _, err := table.Get(s)
				if err != nil {
					return err
				}
				if err := table.Set(s, n+1); err != nil {
					return err
				}
				if err := next(s, framework.Transform(st, e, n+1)); err != nil {
					return err
				}
				lock.Lock()
				attempts[e.ID()]++
				attempt := attempts[e.ID()]
				lock.Unlock()
				return step(s, e, attempt)
			}
		})
	framework.To(out, "out")
	d := frameworktest.New(t, frameworktest.Config{Lanes: 4, Engine: func(c *framework.Config) {
		c.EventMiddlewares = framework.PerEvent(middlewares...)
	}}, p)
	frameworktest.Send(d, "in", things(100, 10, atNoon)...)
	return d
}

// ones checks the counts of each key: 1, 2, 3, … without a gap or one twice.
func ones(t *testing.T, d *frameworktest.Driver, want int) {
	t.Helper()
	last := map[string]int{}
	all := frameworktest.Outputs[int](d, "out")
	for _, e := range all {
		if last[e.Key]++; e.Data != last[e.Key] {
			t.Errorf("key %s: %d, want %d", e.Key, e.Data, last[e.Key])
		}
	}
	if len(all) != want {
		t.Errorf("%d outputs, want %d", len(all), want)
	}
}

func TestMiddlewareRetry(t *testing.T) {
	retry := middleware.Retry{MaxRetries: 3, InitialInterval: time.Microsecond, Multiplier: 1}
	d := tried(t, func(_ *framework.Scope, _ *framework.Event[thing], attempt int) error {
		if attempt < 4 {
			return errors.New("permanent to the engine, but not to the middleware")
		}
		return nil
	}, retry.Middleware)
	ones(t, d, 100)
	if faults := d.Faults(); len(faults) > 0 {
		t.Errorf("%d faults: %s", len(faults), faults[0].Error)
	}
}

// The time-out is over one attempt: when the engine tries again, the event has all of its time again.
func TestMiddlewareTimeout(t *testing.T) {
	d := tried(t, func(s *framework.Scope, e *framework.Event[thing], attempt int) error {
		if _, ok := s.Context().Deadline(); !ok {
			return errors.New("no deadline")
		}
		if err := s.Context().Err(); err != nil {
			return fmt.Errorf("over at the beginning: %v", err)
		}
		if e.Data.N == 5 && attempt == 1 {
			<-s.Context().Done()
			return s.Context().Err()
		}
		if e.Data.N%2 == 0 && attempt == 1 {
			return framework.Transient(errors.New("not yet"))
		}
		return nil
	}, middleware.Timeout(2*time.Second))
	ones(t, d, 100)
	if faults := d.Faults(); len(faults) > 0 {
		t.Errorf("%d faults: %s", len(faults), faults[0].Error)
	}
}

func TestMiddlewareRecoverer(t *testing.T) {
	d := tried(t, func(_ *framework.Scope, e *framework.Event[thing], _ int) error {
		if e.Data.N%10 == 3 {
			panic("three")
		}
		return nil
	}, middleware.Recoverer)
	ones(t, d, 90)
	faults := d.Faults()
	if len(faults) != 10 || faults[0].Step != "step" || !strings.Contains(faults[0].Error, "three") {
		t.Errorf("%d faults", len(faults))
	}
}

// A middleware that lets a failure pass does not let pass what the event had done before it failed.
func TestMiddlewareThatSwallows(t *testing.T) {
	ignore := func(h message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) (_ []*message.Message, err error) {
			defer func() {
				if v := recover(); v != nil {
					err = nil
				}
			}()
			_, _ = h(msg)
			return nil, nil
		}
	}
	d := tried(t, func(_ *framework.Scope, e *framework.Event[thing], attempt int) error {
		switch e.Data.N % 20 {
		case 3:
			return errors.New("three")
		case 13:
			panic("thirteen")
		}
		return nil
	}, ignore)
	ones(t, d, 90)
	if faults := d.Faults(); len(faults) > 0 {
		t.Errorf("%d faults", len(faults))
	}
}

func TestMiddlewareSeesTheEvent(t *testing.T) {
	var lock sync.Mutex
	seen := map[string][]string{}
	see := func(h message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			lock.Lock()
			seen[msg.Metadata[framework.MetadataKey]] = append(seen[msg.Metadata[framework.MetadataKey]], msg.UUID)
			lock.Unlock()
			if middleware.MessageCorrelationID(msg) == "" {
				middleware.SetCorrelationID(msg.UUID, msg)
			}
			msg.SetContext(context.WithValue(msg.Context(), ctxKey{}, msg.UUID))
			return h(msg)
		}
	}
	d := tried(t, func(s *framework.Scope, e *framework.Event[thing], _ int) error {
		if s.Context().Value(ctxKey{}) != e.ID() {
			return errors.New("the context is not the middleware's")
		}
		return nil
	}, see, middleware.CorrelationID)
	ones(t, d, 100)
	if faults := d.Faults(); len(faults) > 0 {
		t.Errorf("%d faults: %s", len(faults), faults[0].Error)
	}
	want := []string{"e3", "e13", "e23", "e33", "e43", "e53", "e63", "e73", "e83", "e93"}
	if !slices.Equal(seen["k3"], want) {
		t.Errorf("%v", seen["k3"])
	}
}

type ctxKey struct{}

// What is tried again is told to the hooks, and bounded.
func TestRetryIsBoundedAndTold(t *testing.T) {
	var lock sync.Mutex
	var told []framework.RetryInfo
	p := oneStep(func(_ *framework.Scope, e *framework.Event[thing]) error {
		if e.Data.N == 3 {
			return framework.Transient(errors.New("down"))
		}
		return nil
	})
	var faultsTold []framework.Fault
	d := frameworktest.New(t, frameworktest.Config{Engine: func(c *framework.Config) {
		c.Retry = framework.Retry{Attempts: 4, First: time.Nanosecond, Most: time.Nanosecond}
		c.Hooks = []framework.Hook{retries(func(i framework.RetryInfo) {
			lock.Lock()
			defer lock.Unlock()
			told = append(told, i)
		}), faulted(func(f framework.Fault) { faultsTold = append(faultsTold, f) })}
	}}, p)
	frameworktest.Send(d, "in", things(10, 10, atNoon)...)
	if len(told) != 3 {
		t.Fatalf("%d tries again: %+v", len(told), told)
	}
	for i, r := range told {
		if r.Attempt != i+1 || r.Step != "step" || r.EventID != "e3" || r.Task != "p/in/0" || r.Err == nil {
			t.Errorf("%+v", r)
		}
	}
	faults := d.Faults()
	if len(faults) != 1 || len(faultsTold) != 1 || faults[0].Attempts != 4 || faults[0].Class != framework.ClassTransient {
		t.Fatalf("faults %+v, told %+v", faults, faultsTold)
	}
	if data, err := faults[0].Event.Bytes(); err != nil || string(data) != `{"n":3}` {
		t.Errorf("%q, %v", data, err)
	}
	if len(d.Outputs("out")) != 9 {
		t.Errorf("%d outputs", len(d.Outputs("out")))
	}
}

type faulted func(framework.Fault)

func (f faulted) OnFault(i framework.Fault) { f(i) }

// A part that panics is a fault of its own, as one that fails; the others go on.
func TestPartsFailByThemselves(t *testing.T) {
	p := framework.NewPipeline("p")
	parts := framework.AddStep(framework.From[thing](p, "in"), framework.Step{Name: "split", Kind: "split"},
		func(st *framework.Step, next framework.Next[thing]) framework.Next[thing] {
			return func(s *framework.Scope, e *framework.Event[thing]) error {
				for i := range 5 {
					part := framework.Part(st, e, i, thing{i})
					if err := s.RunPart(&part.Header, func() error { return next(s, part) }); err != nil {
						return err
					}
				}
				return nil
			}
		})
	out := framework.AddStep(parts, framework.Step{Name: "after", Kind: "step"}, func(_ *framework.Step, next framework.Next[thing]) framework.Next[thing] {
		return func(s *framework.Scope, e *framework.Event[thing]) error {
			if err := next(s, e); err != nil {
				return err
			}
			switch e.Data.N {
			case 1:
				return errors.New("one")
			case 3:
				panic("three")
			}
			return nil
		}
	})
	framework.To(out, "out")
	d := frameworktest.New(t, frameworktest.Config{}, p)
	frameworktest.Send(d, "in", things(1, 1, atNoon)...)
	var got []int
	for _, e := range frameworktest.Outputs[thing](d, "out") {
		got = append(got, e.Data.N)
	}
	if !slices.Equal(got, []int{0, 2, 4}) {
		t.Errorf("parts %v", got)
	}
	faults := d.Faults()
	if len(faults) != 2 || faults[0].Part == faults[1].Part || faults[0].Part == "" || faults[0].Step != "after" || faults[0].Event.ID != "e0" {
		t.Errorf("%+v", faults)
	}
}
