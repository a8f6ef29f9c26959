package framework

import (
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// ErrStopTimeout is returned by Runner.Run when work was still running at Config.StopTimeout after its context
// was done. That work is not acknowledged and is done again after the next start.
var ErrStopTimeout = errors.New("framework: running work did not end in time")

// shutdown stops intake, lets running work end, sends what is decided, and closes what was opened.
func (r *Runner) shutdown(router *message.Router, routed <-chan error) error {
	deadline := time.NewTimer(r.config.StopTimeout)
	defer deadline.Stop()
	var errs []error
	late := false
	wait := func(done <-chan struct{}) {
		if !late {
			select {
			case <-done:
				return
			case <-deadline.C:
				late = true
				errs = append(errs, ErrStopTimeout)
				r.cut()
			}
		}
		select { // contexts are cut: what listens to them ends at once
		case <-done:
		case <-time.After(time.Second):
		}
	}
	r.halt()
	tasks := r.live()
	for _, t := range tasks {
		t.halt()
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if routed != nil {
			select {
			case <-router.Running(): // a router that is closed while it starts does not end
			case err := <-routed:
				r.logRouter(err)
				routed = nil
			}
		}
		if !router.IsRunning() { // it has not come so far as to own the subscribers
			if err := r.closeSubscribers(); err != nil {
				r.config.Logger.Warn("subscribers did not close", "error", err)
			}
			return
		}
		if err := router.Close(); err != nil && r.env.ctx.Err() == nil {
			r.config.Logger.Warn("router did not close", "error", err)
		}
		if routed != nil {
			r.logRouter(<-routed)
		}
	}()
	for _, t := range tasks {
		wait(t.stopped)
	}
	wait(closed)
	revoked := make(chan struct{})
	go func() {
		defer close(revoked)
		if err := r.revokeAll(r.env.ctx); err != nil {
			r.config.Logger.Warn("task", "error", err)
		}
	}()
	wait(revoked)
	for _, relay := range r.relays { // those that others may hand a dead letter are the last
		relay.close()
		select {
		case <-r.failed: // a sink that failed for good does not take what is left
			r.cut()
		default:
		}
		wait(relay.stopped)
	}
	r.cut()
	for _, t := range tasks {
		select {
		case <-t.stopped:
			if t.slice == nil {
				continue
			}
			t.slice.Close() // what was not committed is in the caches too
		default:
		}
	}
	errs = append(errs, r.closePublishers())
	select {
	case <-r.failed:
		errs = append([]error{r.failure}, errs...)
	default:
	}
	return errors.Join(errs...)
}

// halt lets no task be opened any more, and waits for those that are.
func (r *Runner) halt() {
	r.noMore()
	r.lock.Lock()
	defer r.lock.Unlock()
}

// abandon closes what was opened for a run that does not begin.
func (r *Runner) abandon() error {
	r.halt()
	return errors.Join(r.closeSubscribers(), r.revokeAll(r.env.ctx), r.closePublishers())
}

func (r *Runner) closeSubscribers() error {
	var errs []error
	for _, h := range r.handlers {
		errs = append(errs, h.subscriber.Close())
	}
	return errors.Join(errs...)
}

// logRouter logs how the router ended while stopping, where that is worth a word.
func (r *Runner) logRouter(err error) {
	if err != nil {
		r.config.Logger.Warn("router", "error", err)
	}
}

func (r *Runner) closePublishers() error {
	var errs []error
	closed := map[Publisher]bool{}
	for _, relay := range r.relays {
		if !closed[relay.publisher] {
			closed[relay.publisher] = true
			errs = append(errs, relay.publisher.Close())
		}
	}
	return errors.Join(errs...)
}
