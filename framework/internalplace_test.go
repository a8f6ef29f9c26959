package framework_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/embedded"
)

// mute is a member whose brokers do not answer the first few questions about topics.
type mute struct {
	*framework.Member
	left atomic.Int64
}

var errMute = errors.New("no broker answers")

func (m *mute) Topic(ctx context.Context, name string) (framework.TopicInfo, error) {
	if m.left.Add(-1) >= 0 {
		return framework.TopicInfo{}, errMute
	}
	return m.Member.Topic(ctx, name)
}

// TestSourcesThatDoNotAnswer: while it is not known whether topics are shared out among processes, no topic between stages is put
// where others do not see it, and no dead letter of a stage is resubmitted there.
func TestSourcesThatDoNotAnswer(t *testing.T) {
	for name, local := range map[string]bool{"no other transport": false, "another in the store": true} {
		t.Run(name, func(t *testing.T) {
			b := framework.NewBroker()
			for _, topic := range []string{"left", "right", "paired", "counts"} {
				b.Create(topic, 2)
			}
			store := openStore(t, t.TempDir())
			topics, err := embedded.New(store, embedded.Config{})
			if err != nil {
				t.Fatal(err)
			}
			m := &mute{Member: b.Join()}
			config := framework.Config{Store: store, Transport: m}
			if local {
				config.Internal = topics
			}
			runner, err := framework.New(config, sharedPairs())
			if err != nil {
				t.Fatal(err)
			}
			fault := framework.Fault{Pipeline: "shared", Step: "count", Topic: "shared.by-digit", Event: framework.FaultEvent{ID: "1", Key: "d1"}}
			m.left.Store(2) // as many as there are sources
			if err := runner.Resubmit(t.Context(), fault); !errors.Is(err, errMute) {
				t.Errorf("Resubmit gave %v, want %v", err, errMute)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() { // it must not come so far
				select {
				case <-runner.Ready():
					cancel()
				case <-ctx.Done():
				}
			}()
			m.left.Store(2)
			if err := runner.Run(ctx); !errors.Is(err, errMute) {
				t.Errorf("Run gave %v, want %v", err, errMute)
			}
			if _, err := topics.Topic(t.Context(), "shared.by-digit"); !errors.Is(err, framework.ErrNoTopic) {
				t.Errorf("the topic between the stages is in the store, or: %v", err)
			}
		})
	}
}
