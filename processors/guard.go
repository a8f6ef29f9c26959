package processors

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/millrace/millrace/framework"
)

// GuardConfig bounds the calls of a lookup to another service.
type GuardConfig struct {
	// Timeout bounds one call, waiting for its turn included; default 5 s. The lookup has to heed its
	// context, or it blocks its lane for as long as it likes.
	Timeout time.Duration
	// Outstanding is how many calls may run at once; default 16. More wait for their turn.
	Outstanding int
	// Failures is how many calls in a row must fail for the circuit to open; default 5; negative: never.
	// Only transient errors are failures: a permanent one is an answer, which shows that the service is there.
	Failures int
	// OpenFor is how long an open circuit refuses all calls, before it lets one through to see whether the
	// service is back; default 10 s.
	OpenFor time.Duration
}

func (c GuardConfig) withDefaults() GuardConfig {
	if c.Timeout <= 0 {
		c.Timeout = 5 * time.Second
	}
	if c.Outstanding <= 0 {
		c.Outstanding = 16
	}
	if c.Failures == 0 {
		c.Failures = 5
	}
	if c.OpenFor <= 0 {
		c.OpenFor = 10 * time.Second
	}
	return c
}

// ErrOpen is wrapped by the errors of a guarded lookup whose circuit is open: the service has failed several
// times in a row and is left in peace for a while. It is transient.
var ErrOpen = errors.New("circuit is open")

// Guard bounds the calls of a lookup in time and number, and stops calling a service that keeps failing. It
// may be shared by steps and pipelines, which then share its bounds.
func Guard[K comparable, V any](lookup Lookup[K, V], config GuardConfig) Lookup[K, V] {
	c := config.withDefaults()
	g := &guard[K, V]{lookup: lookup, config: c, turns: make(chan struct{}, c.Outstanding)}
	if c.Failures > 0 {
		g.breaker = gobreaker.NewCircuitBreaker[answer[V]](gobreaker.Settings{
			Timeout:      c.OpenFor,
			ReadyToTrip:  func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= uint32(c.Failures) },
			IsSuccessful: func(err error) bool { return err == nil || framework.ClassOf(err) != framework.ClassTransient },
			// The caller gave up, which says nothing about the service.
			IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) },
		})
	}
	return g
}

type guard[K comparable, V any] struct {
	lookup  Lookup[K, V]
	config  GuardConfig
	turns   chan struct{}
	breaker *gobreaker.CircuitBreaker[answer[V]]
}

type answer[V any] struct {
	value V
	found bool
}

func (g *guard[K, V]) Lookup(ctx context.Context, key K) (V, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, g.config.Timeout)
	defer cancel()
	// The turn comes before the breaker: waiting for it is our own doing and not a failure of the service.
	select {
	case g.turns <- struct{}{}:
		defer func() { <-g.turns }()
	case <-ctx.Done():
		var none V
		return none, false, fmt.Errorf("all %d calls are taken: %w", g.config.Outstanding, ctx.Err())
	}
	call := func() (answer[V], error) {
		v, found, err := g.lookup.Lookup(ctx, key)
		return answer[V]{v, found}, err
	}
	if g.breaker == nil {
		a, err := call()
		return a.value, a.found, err
	}
	a, err := g.breaker.Execute(call)
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		err = framework.Transient(ErrOpen)
	}
	return a.value, a.found, err
}
