package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
)

// A relay ends the run for what is permanent or fatal; whoever publishes without one can tell by the class whether to try
// again.
func TestClassesOfErrors(t *testing.T) {
	for err, class := range map[error]framework.Class{
		kerr.MessageTooLarge: framework.ClassPermanent, kerr.InvalidTopicException: framework.ClassPermanent,
		kerr.TopicAuthorizationFailed: framework.ClassFatal, kerr.SaslAuthenticationFailed: framework.ClassFatal,
		kgo.ErrClientClosed:    framework.ClassFatal,
		kerr.NotEnoughReplicas: framework.ClassTransient, kerr.UnknownTopicOrPartition: framework.ClassTransient,
		kerr.NotLeaderForPartition: framework.ClassTransient, context.DeadlineExceeded: framework.ClassTransient,
		io.EOF: framework.ClassTransient,
	} {
		if got := classify(fmt.Errorf("publish: %w", err)); framework.ClassOf(got) != class || !errors.Is(got, err) {
			t.Errorf("%v: class %s, want %s", err, framework.ClassOf(got), class)
		}
	}
}
