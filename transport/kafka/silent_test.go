package kafka_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/testenv"
	"github.com/millrace/millrace/transport/kafka"
)

// A server that takes connections and says nothing is waited for as long as Config.Wait says, and not when the program is
// to end.
func TestBrokerThatSaysNothing(t *testing.T) {
	for _, cancelled := range []bool{false, true} {
		address, accepted := testenv.Stranger(t, "")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		config := kafka.Config{Brokers: []string{address}, Wait: time.Second}
		if cancelled {
			config.Wait = time.Hour
		}
		done := make(chan error, 1)
		go func() {
			_, err := kafka.New(ctx, config)
			done <- err
		}()
		<-accepted
		if cancelled {
			cancel()
		}
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), address) || errors.Is(err, context.Canceled) != cancelled ||
				!cancelled && !strings.Contains(err.Error(), "within 1s") || !cancelled && !strings.Contains(err.Error(), "none has said anything yet") {
				t.Errorf("cancelled: %v; %v", cancelled, err)
			}
		case <-time.After(time.Minute):
			t.Fatal("it still waits")
		}
	}
}
