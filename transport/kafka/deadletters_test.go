package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/transport/kafka"
)

// Dead letters over Kafka are listed and resubmitted by a Runner that does not run, in another process than the one
// that has the partitions.
func TestDeadLetters(t *testing.T) {
	deadLetters(t, kafka.Config{Brokers: fake(t).ListenAddrs()}, "")
}

func TestDeadLettersOnBroker(t *testing.T) { deadLetters(t, broker(t), own(t)) }

func deadLetters(t *testing.T, config kafka.Config, prefix string) {
	const n = 200
	var broken atomic.Bool
	broken.Store(true)
	pipeline := func() *framework.Pipeline {
		p := framework.NewPipeline(prefix + "checked")
		framework.To(processors.Map(framework.From[int](p, prefix+"numbers"), "check", func(e *framework.Event[int]) (int, error) {
			if broken.Load() && e.Data%10 == 3 {
				return 0, errors.New("broken")
			}
			return e.Data, nil
		}), prefix+"good")
		return p
	}
	runner := func() *framework.Runner {
		store, err := microstore.Open(microstore.Config{Dir: t.TempDir()})
		must(t, err)
		t.Cleanup(func() { must(t, store.Close()) })
		r, err := framework.New(framework.Config{Store: store, Transport: open(t, config), Logger: slog.New(slog.DiscardHandler)}, pipeline())
		must(t, err)
		return r
	}
	transport := open(t, config)
	must(t, transport.CreateTopic(t.Context(), prefix+"numbers", 3))
	publisher, err := transport.Publisher(framework.PublisherConfig{})
	must(t, err)
	records := make([]framework.Record, n)
	for i := range records {
		records[i] = framework.Record{ID: fmt.Sprint("e", i), Key: fmt.Sprint("k", i), Value: fmt.Append(nil, i)}
	}
	must(t, publisher.Publish(t.Context(), prefix+"numbers", records))

	other := runner()
	list := func() (all []framework.Fault) {
		t.Helper()
		must(t, other.DeadLetters(t.Context(), prefix+"checked", func(f framework.Fault) error {
			all = append(all, f)
			return nil
		}))
		return all
	}
	if faults := list(); len(faults) > 0 {
		t.Errorf("%d faults before anything ran", len(faults))
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	running := runner()
	go func() { ended <- running.Run(ctx) }()
	await := func(topic string, n int) {
		t.Helper()
		ids := map[string]bool{}
		subscriber, err := transport.Subscriber(framework.SubscriberConfig{BatchEvents: 100, InFlight: 2})
		must(t, err)
		defer func() { must(t, subscriber.Close()) }()
		select {
		case <-running.Ready():
		case err := <-ended:
			t.Fatal(err)
		}
		messages, err := subscriber.Subscribe(t.Context(), topic)
		must(t, err)
		for len(ids) < n {
			b, msg := next(t, messages)
			for _, r := range b.Records {
				ids[r.ID] = true
			}
			msg.Ack()
		}
	}
	await(prefix+"good", n-n/10)
	await(prefix+"checked.faults", n/10)
	faults := list()
	if len(faults) != n/10 {
		t.Fatalf("%d faults, expected %d", len(faults), n/10)
	}
	broken.Store(false)
	must(t, other.Resubmit(t.Context(), faults...))
	await(prefix+"good", n)
	stop()
	must(t, <-ended)
}
