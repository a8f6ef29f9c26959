package framework

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/internal/watermark"
	"github.com/millrace/millrace/microstore"
)

// runLane runs a lane's part of the events from..to of a batch, and the timers that are due before each and, at
// the end, up to upTo. An error is fatal.
func (t *task) runLane(lane int, p *prepared, from, to int, upTo int64) error {
	s := t.scopes[lane]
	for i := from; i < to; {
		next, err := t.runEvents(lane, s, p, i, to)
		if err != nil {
			return err
		}
		i = next
	}
	s.order = int32(to)
	return t.fire(s, upTo)
}

// runEvents runs events until one panics, which becomes a fault; so guarding against panics costs nothing an
// event.
func (t *task) runEvents(lane int, s *Scope, p *prepared, from, to int) (next int, err error) {
	i := from
	var start mark
	running := false
	defer func() {
		if !running {
			return // what panics between events is not theirs, but the engine's or a hook's
		}
		if v := recover(); v != nil {
			at := s.at
			s.restore(start)
			s.at = at
			next, err = i+1, t.settle(s, start, panicked(v))
		}
	}()
	for ; i < to; i++ {
		if int(p.owner[i]) != lane || p.fate[i] >= fatePassed {
			continue
		}
		h := p.arena.header(i)
		s.order = int32(i)
		if s.next <= p.stamps[i] {
			if err := t.fire(s, p.stamps[i]); err != nil {
				return i, err
			}
		}
		s.key, s.header, s.record, s.timer, s.watermark = h.Key, h, &p.records[i], nil, p.stamps[i]
		s.at, s.attempt, s.trail = p.work.source.node.index, 1, s.trail[:0]
		s.counted(s.at, countIn)
		start, running = s.save(), true
		if p.fate[i] == fateFault {
			err = t.settle(s, start, p.errs[i])
		} else if t.handlers == nil {
			err = t.attempts(s, start, func() error { return p.arena.run(s, i) })
		} else {
			err = t.handled(lane, s, start, p, i)
		}
		running = false
		if err != nil {
			return i, err
		}
	}
	return to, nil
}

// attempts runs f until it succeeds or has failed for good, which makes a fault of the event.
func (t *task) attempts(s *Scope, start mark, f func() error) error {
	retry := t.env.config.Retry
	for s.attempt = 1; ; s.attempt++ {
		s.last = s.attempt >= retry.Attempts
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
	n := t.node(s.at)
	s.trail = s.trail[:start.trail]
	s.counted(n.index, countFault)
	s.addFault(s.faultOf(n, s.header, err, ClassOf(err)))
	return nil
}

// isStoreError tells errors of the store after which nothing can go on from those of one event.
func isStoreError(err error) bool {
	return errors.Is(err, microstore.ErrClosed) || errors.Is(err, microstore.ErrFailed) ||
		errors.Is(err, microstore.ErrFull) || errors.Is(err, microstore.ErrDamaged)
}

// handled runs an event inside the middlewares of its lane.
func (t *task) handled(lane int, s *Scope, start mark, p *prepared, i int) error {
	s.inner = func() error {
		succeeded := false
		defer func() {
			if !succeeded { // a middleware may try again, or let the failure pass: nothing of it stays
				at := s.at
				s.restore(start)
				s.at = at
			}
		}()
		s.at = start.at
		err := p.arena.run(s, i)
		succeeded = err == nil
		return err
	}
	return t.attempts(s, start, func() error {
		msg := ToMessage(&p.records[i]) // anew each time: a middleware may have ended its context
		msg.SetContext(s.ctx)
		_, err := t.handlers[lane](msg)
		return err
	})
}

// handlerOf builds the chain of middlewares around a lane's events.
func handlerOf(s *Scope, middlewares []message.HandlerMiddleware) message.HandlerFunc {
	h := message.HandlerFunc(func(msg *message.Message) ([]*message.Message, error) {
		s.ctx = msg.Context()
		return nil, s.inner()
	})
	for i := len(middlewares) - 1; i >= 0; i-- {
		h = middlewares[i](h)
	}
	return func(msg *message.Message) ([]*message.Message, error) {
		ctx := s.ctx
		defer func() { s.ctx = ctx }()
		return h(msg)
	}
}

// fire runs the lane's timers that are due at or before upTo, earliest first.
func (t *task) fire(s *Scope, upTo int64) error {
	for s.next <= upTo {
		shard, at := -1, int64(watermark.Max)
		for _, candidate := range s.shards {
			if due, ok := t.timers.Peek(candidate); ok && (due < at || shard < 0) {
				shard, at = candidate, due
			}
		}
		if shard < 0 || at > upTo {
			s.next = at
			if shard < 0 {
				s.next = watermark.Max
			}
			return nil
		}
		due, ok := t.timers.Pop(s.batch, shard, upTo)
		if !ok {
			s.next = at
			return nil
		}
		if s.fired++; s.fired > 2*timersARound {
			return errTooMany
		}
		if err := t.runTimer(s, due); err != nil {
			return err
		}
		s.next = watermark.Min
	}
	return nil
}

// errTooMany ends a round of which more timers fell due than were loaded for it: those that fired set others.
var errTooMany = fmt.Errorf("%w: more than %d timers", microstore.ErrTooBig, 2*timersARound)

// fireFew fires at most n of the timers that are due at or before upTo, the earliest of all lanes first, and returns
// up to when it came. Not all: others at that very moment are left.
func (t *task) fireFew(n, order int, upTo int64) (bound int64, all bool, err error) {
	last := int64(watermark.Min)
	for ; ; n-- {
		s, shard, at := t.earliest()
		switch {
		case s == nil || at > upTo:
			return upTo, true, nil
		case n == 0 && at > last:
			return at - 1, true, nil
		case n == 0:
			return last, false, nil
		}
		due, _ := t.timers.Pop(s.batch, shard, upTo)
		last = max(last, at)
		s.order = int32(order)
		if err := t.runTimer(s, due); err != nil {
			return 0, false, err
		}
	}
}

// due tells whether a timer in memory is due.
func (t *task) due(upTo int64) bool {
	s, _, at := t.earliest()
	return s != nil && at <= upTo
}

// earliest finds the earliest timer in memory, nil when there is none.
func (t *task) earliest() (lane *Scope, shard int, at int64) {
	for _, s := range t.scopes {
		for _, candidate := range s.shards {
			if due, ok := t.timers.Peek(candidate); ok && (lane == nil || due < at) {
				lane, shard, at = s, candidate, due
			}
		}
	}
	return lane, shard, at
}

func (t *task) runTimer(s *Scope, due microstore.Timer) error {
	n := t.stage.timers[due.Step]
	if n == nil {
		return nil // its step is no longer part of the pipeline
	}
	timer := Timer{At: time.Unix(0, due.At).UTC(), Key: due.Key, ID: due.ID, Payload: due.Payload}
	// One that was set for a time that had passed fires at the watermark at which it was set.
	s.key, s.header, s.record, s.timer, s.watermark = due.Key, nil, nil, &timer, max(due.At, s.watermark)
	s.at, s.trail = n.index, s.trail[:0]
	defer func() { s.timer = nil }()
	start := s.save()
	return t.attempts(s, start, func() (err error) {
		s.at = n.index
		return unpanicked(func() error { return n.onTimer(s, timer) })
	})
}

// id is the id of what the lane is processing.
func (s *Scope) id() string {
	switch {
	case s.timer != nil:
		return s.timer.ID
	case s.header != nil:
		return s.header.ID()
	}
	return ""
}

func (t *task) node(index int) *node { return t.stage.pipeline.nodes[index] }

func (t *task) nodeName(index int) string { return t.node(index).name }

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
