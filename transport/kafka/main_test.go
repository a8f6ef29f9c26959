package kafka_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/transport/kafka"
)

func TestMain(m *testing.M) {
	if arguments := os.Getenv(childVariable); arguments != "" {
		child(arguments)
	}
	if arguments := os.Getenv(memberVariable); arguments != "" {
		if err := memberRun(arguments); err != nil {
			fmt.Fprintln(os.Stderr, "member:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Watermill's suite reads a topic through many subscriptions and leaves with messages that were delivered twice,
	// as happens when partitions move.
	const multiplier = "github.com/ThreeDotsLabs/watermill/internal/subscriber.(*multiplier).Subscribe."
	goleak.VerifyTestMain(services.Main(m), goleak.IgnoreAnyFunction(multiplier+"func2"), goleak.IgnoreAnyFunction(multiplier+"func3"),
		goleak.IgnoreAnyFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick")) // of sarama, below watermill-kafka
}

const patience = time.Minute

// fake starts a broker in the process.
func fake(t testing.TB, options ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.DefaultNumPartitions(4)}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster
}

func open(t testing.TB, config kafka.Config) *kafka.Transport {
	t.Helper()
	transport, err := kafka.New(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := transport.Close(); err != nil {
			t.Error(err)
		}
	})
	return transport
}

// opened is a transport on a broker in the process, and a topic of n partitions.
func opened(t testing.TB, n int, change ...func(*kafka.Config)) (*kafka.Transport, *kfake.Cluster) {
	t.Helper()
	cluster := fake(t)
	config := kafka.Config{Brokers: cluster.ListenAddrs()}
	for _, f := range change {
		f(&config)
	}
	transport := open(t, config)
	must(t, transport.CreateTopic(t.Context(), "events", n))
	return transport, cluster
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func publish(t testing.TB, transport *kafka.Transport, records ...framework.Record) {
	t.Helper()
	publisher, err := transport.Publisher(framework.PublisherConfig{})
	must(t, err)
	must(t, publisher.Publish(t.Context(), "events", records))
}

// numbered are n records of one key, with values from a number on.
func numbered(from, n int) []framework.Record {
	records := make([]framework.Record, n)
	for i := range records {
		records[i] = framework.Record{ID: fmt.Sprintf("id-%d", from+i), Key: "k", Value: fmt.Appendf(nil, "%d", from+i)}
	}
	return records
}

// subscribe reads "events" from a position.
func subscribe(t testing.TB, transport *kafka.Transport, from int64) (message.Subscriber, <-chan *message.Message) {
	t.Helper()
	subscriber, err := transport.Subscriber(framework.SubscriberConfig{
		Group: "g", BatchEvents: 100, BatchBytes: 1 << 20, InFlight: 2,
		Start: func(string, int) (int64, bool) { return from, from >= 0 },
	})
	must(t, err)
	t.Cleanup(func() { _ = subscriber.Close() })
	messages, err := subscriber.Subscribe(t.Context(), "events")
	must(t, err)
	return subscriber, messages
}

// next waits for a batch.
func next(t testing.TB, messages <-chan *message.Message) (*framework.Batch, *message.Message) {
	t.Helper()
	select {
	case msg, ok := <-messages:
		if !ok {
			t.Fatal("the channel is closed")
		}
		b, _ := framework.BatchOf(msg)
		return b, msg
	case <-time.After(patience):
		t.Fatalf("no batch within %s", patience)
	}
	return nil, nil
}

// take acknowledges batches until it has n records.
func take(t testing.TB, messages <-chan *message.Message, n int) (all []framework.Record, last *framework.Batch) {
	t.Helper()
	for len(all) < n {
		b, msg := next(t, messages)
		for i := range b.Records {
			if err := b.Records[i].Err; err != nil {
				t.Fatalf("record %d: %v", b.Records[i].Offset, err)
			}
		}
		all, last = append(all, b.Records...), b
		msg.Ack()
	}
	return all, last
}

func checkNumbered(t testing.TB, records []framework.Record, from, n int) {
	t.Helper()
	if len(records) != n {
		t.Fatalf("%d records, expected %d", len(records), n)
	}
	for i := range records {
		if string(records[i].Value) != fmt.Sprint(from+i) {
			t.Fatalf("record %d is %s, expected %d", i, records[i].Value, from+i)
		}
	}
}

// client is a plain client of another program.
func client(t testing.TB, cluster *kfake.Cluster, options ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}, options...)...)
	must(t, err)
	t.Cleanup(c.Close)
	return c
}
