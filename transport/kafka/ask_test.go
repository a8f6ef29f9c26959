package kafka

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Who is interrupted between two attempts is told that, beside the last answer: a program goes by it when it ends.
func TestInterruptedWhileAsking(t *testing.T) {
	notYet := errors.New("not yet")
	for _, wait := range []time.Duration{time.Millisecond, time.Hour} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err := (&Config{Wait: wait}).ask(ctx, func(error) bool { return true }, func(context.Context) error {
			if wait == time.Hour {
				cancel()
			}
			return notYet
		})
		if !errors.Is(err, notYet) || errors.Is(err, context.Canceled) != (wait == time.Hour) {
			t.Errorf("up to %v: %v", wait, err)
		}
	}
}
