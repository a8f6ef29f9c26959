package framework

import (
	"context"
	"sync"
)

// insist asks for what a task needs to take its partition over, again and again while the error is one that passes by
// itself: brokers may be away for longer than a transport waits for them, and the partition is still this process's. ctx
// ends when it is not, or the process stops.
func (t *task) insist(ctx context.Context, topic string, ask func() error) error {
	for attempt := 1; ; attempt++ {
		err := ask()
		if err != nil && ctx.Err() != nil {
			return ctx.Err() // whatever the last answer was
		}
		if class, _ := marked(err); class != ClassTransient {
			return err
		}
		wait := backoff(t.env.config.Retry, attempt)
		t.env.config.Logger.Warn("a partition cannot be taken over yet; the task asks again", "task", t.name, "topic", topic,
			"attempt", attempt, "wait", wait, "error", err)
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// wanted is done when the task is to stop. What it is for ends before done returns.
func (t *task) wanted() (ctx context.Context, done func()) {
	ctx, cancel := context.WithCancel(t.env.ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-t.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() { cancel(); watch.Wait() }
}
