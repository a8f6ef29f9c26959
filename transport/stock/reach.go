package stock

import (
	"context"
	"fmt"
	"net"
	"time"
)

// reach asks Config.Reach, unless it has answered before.
func (t *Transport) reach(ctx context.Context) error {
	t.lock.Lock()
	reached := t.reached
	t.lock.Unlock()
	if reached || t.config.Reach == nil {
		return nil
	}
	asking, cancel := context.WithTimeout(ctx, t.config.ReachTimeout)
	defer cancel()
	deadline, _ := asking.Deadline()
	err := t.config.Reach(asking)
	switch {
	case err == nil:
		t.lock.Lock()
		defer t.lock.Unlock()
		t.reached = true
	case ctx.Err() != nil:
		return fmt.Errorf("there is no answer yet: %w", context.Cause(ctx))
	case !time.Now().Before(deadline): // by which a client may have given up itself
		return fmt.Errorf("there is no answer within %v%s: %w", t.config.ReachTimeout, otherKind, context.DeadlineExceeded)
	}
	return err
}

// Dialer makes connections for a Config.Reach whose client takes no context: they are closed when ctx ends, so that nobody
// waits for an answer any longer.
func Dialer(ctx context.Context) func(network, address string) (net.Conn, error) {
	return func(network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			context.AfterFunc(ctx, func() { _ = conn.Close() })
		}
		return conn, err
	}
}
