package kafka

import (
	"context"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
)

// A relay ends the run for errors that are marked, and tries again for all others: so these must be marked and those
// must not.
func TestErrorsThatEndTheRun(t *testing.T) {
	for err, class := range map[error]framework.Class{
		kerr.MessageTooLarge: framework.ClassPermanent, kerr.InvalidTopicException: framework.ClassPermanent,
		kerr.TopicAuthorizationFailed: framework.ClassFatal, kerr.SaslAuthenticationFailed: framework.ClassFatal,
		kgo.ErrClientClosed: framework.ClassFatal,
	} {
		err := fmt.Errorf("publish: %w", err)
		if got := classify(err); got == err || framework.ClassOf(got) != class {
			t.Errorf("%v: class %s, marked %t", err, framework.ClassOf(got), got != err)
		}
	}
	for _, err := range []error{kerr.NotEnoughReplicas, kerr.UnknownTopicOrPartition, kerr.NotLeaderForPartition, context.DeadlineExceeded} {
		if got := classify(err); got != err {
			t.Errorf("%v is marked", err)
		}
	}
}
