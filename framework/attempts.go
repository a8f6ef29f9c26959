package framework

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/millrace/millrace/microstore"
)

// attempts runs f until it succeeds or has failed for good, which makes a fault of the event.
func (t *task) attempts(s *Scope, start mark, f func() error) error {
	if failed, err := t.failedAlready(s); failed {
		return err
	}
	retry := t.env.config.Retry
	for s.attempt = 1; ; s.attempt++ {
		s.last, s.part = s.attempt >= retry.Attempts, nil
		err := f()
		if err == nil {
			return nil
		}
		if ClassOf(err) != ClassTransient || s.last {
			at := s.at
			s.restore(start)
			s.at = at
			return t.settle(s, start, err)
		}
		wait := backoff(retry, s.attempt)
		for _, hook := range t.env.hooks.retry {
			hook.OnRetry(RetryInfo{Task: t.name, Step: t.nodeName(s.at), EventID: s.id(), Attempt: s.attempt, Wait: wait, Err: err})
		}
		s.restore(start)
		if err := sleep(s.ctx, wait); err != nil {
			return Fatal(fmt.Errorf("stopped while waiting to try event %q again: %w", s.id(), err))
		}
	}
}

// settle makes a fault of an event that failed for good; only a fatal error is returned.
func (t *task) settle(s *Scope, start mark, err error) error {
	if ClassOf(err) == ClassFatal || isStoreError(err) {
		return fmt.Errorf("step %q, event %q: %w", t.nodeName(s.at), s.id(), err)
	}
	if s.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return fmt.Errorf("step %q, event %q: cut off by the deadline for stopping: %w", t.nodeName(s.at), s.id(), err)
	}
	if failed, err := t.failedAlready(s); failed { // where it has not been run: it cannot be decoded
		return err
	}
	n, h := t.node(s.at), s.header
	if s.part != nil {
		h = s.part
	}
	s.trail = s.trail[:start.trail]
	s.counted(n.index, countFault)
	s.reads.used = 0 // faults of parts were taken back
	f := s.faultOf(n, h, err, ClassOf(err))
	f.Parked, s.failed = s.parks, true
	s.addFault(f)
	if s.parks && !s.waits {
		return s.parkAfter(&f)
	}
	return nil
}

// isStoreError tells errors of the store after which nothing can go on from those of one event.
func isStoreError(err error) bool {
	return errors.Is(err, microstore.ErrClosed) || errors.Is(err, microstore.ErrFailed) ||
		errors.Is(err, microstore.ErrFull) || errors.Is(err, microstore.ErrDamaged)
}

// unpanicked makes an error of a panic in f.
func unpanicked(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = panicked(v)
		}
	}()
	return f()
}

// panicked makes an error of what a step panicked with.
func panicked(v any) error {
	return Permanent(fmt.Errorf("panic: %v\n%s", v, debug.Stack()))
}

// backoff is the wait after an attempt: doubling, with jitter of up to a half so that what failed together is not
// tried again together.
func backoff(r Retry, attempt int) time.Duration {
	d := r.First << min(attempt-1, 30)
	if d <= 0 || d > r.Most {
		d = r.Most
	}
	return d/2 + rand.N(d/2+1)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
