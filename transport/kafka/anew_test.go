package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/transport/kafka"
)

// A topic that was deleted and made anew, with more records than the old one had, is not read on at the old position.
func TestTopicMadeAnew(t *testing.T) {
	madeAnew(t, kafka.Config{Brokers: fake(t).ListenAddrs()}, "")
}

func TestTopicMadeAnewOnBroker(t *testing.T) { madeAnew(t, broker(t), own(t)) }

func madeAnew(t *testing.T, config kafka.Config, prefix string) {
	const n = 50
	topic, dir := prefix+"numbers", t.TempDir()
	transport := open(t, config)
	write := func(topic string, from, n int) {
		t.Helper()
		publisher, err := transport.Publisher(framework.PublisherConfig{})
		must(t, err)
		records := numbered(from, n)
		must(t, publisher.Publish(t.Context(), topic, records))
	}
	// run runs until so many numbers have come out, or an error.
	run := func(n int) error {
		t.Helper()
		store, err := microstore.Open(microstore.Config{Dir: dir})
		must(t, err)
		defer func() { must(t, store.Close()) }()
		p := framework.NewPipeline(prefix + "copied")
		out, all := 0, make(chan struct{})
		numbers := framework.From[int](p, topic)
		framework.To(processors.Peek(numbers, "count", func(*framework.Event[int]) {
			if out++; out == n {
				close(all)
			}
		}), prefix+"copies")
		runner, err := framework.New(framework.Config{Store: store, Transport: open(t, config), Lanes: 1}, p)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		go func() {
			select {
			case <-all:
				cancel()
			case <-ctx.Done():
			}
		}()
		if err := runner.Run(ctx); err != nil {
			return err
		}
		if out != n {
			return fmt.Errorf("%d numbers of %d came out", out, n)
		}
		return nil
	}
	must(t, transport.CreateTopic(t.Context(), topic, 1))
	before, err := transport.Topic(t.Context(), topic)
	must(t, err)
	write(topic, 0, n)
	must(t, run(n))
	write(topic, n, n)
	must(t, run(n))

	client, err := kgo.NewClient(kgo.SeedBrokers(config.Brokers...))
	must(t, err)
	defer client.Close()
	_, err = kadm.NewClient(client).DeleteTopic(t.Context(), topic)
	must(t, err)
	transport = open(t, config) // that has not heard of the old one
	for deadline := time.Now().Add(patience); ; {
		if _, err = transport.Topic(t.Context(), topic); errors.Is(err, framework.ErrNoTopic) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the topic is still there")
		}
		time.Sleep(10 * time.Millisecond)
	}
	must(t, transport.CreateTopic(t.Context(), topic, 1))
	write(topic, 0, 5*n)
	after, err := transport.Topic(t.Context(), topic)
	must(t, err)
	if before.ID == "" || before.ID == after.ID {
		t.Fatalf("ids %q and %q", before.ID, after.ID)
	}
	err = run(-1)
	if !errors.Is(err, framework.ErrForeignState) || !strings.Contains(err.Error(), before.ID) || !strings.Contains(err.Error(), after.ID) {
		t.Errorf("Run ended with %v", err)
	}
}
