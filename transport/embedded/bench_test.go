package embedded

import (
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
)

func sample(n int) []framework.Record {
	records := make([]framework.Record, n)
	for i := range records {
		records[i] = framework.Record{
			ID: fmt.Sprintf("018f6c1e-0000-8000-8000-%012d", i), Type: "order.placed", Source: "/shop",
			Key: fmt.Sprintf("customer-%d", i%1000), Time: time.Unix(1700000000, int64(i)).UTC(), Value: make([]byte, 150),
		}
	}
	return records
}

func benchmarkStore(b *testing.B) *Transport {
	store, err := microstore.Open(microstore.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = store.Close() })
	t, err := New(store, Config{AutoCreate: true})
	if err != nil {
		b.Fatal(err)
	}
	return t
}

// BenchmarkPublish is the cost of a record that is committed, by 500, to four partitions on disk.
func BenchmarkPublish(b *testing.B) {
	t := benchmarkStore(b)
	p, _ := t.Publisher(framework.PublisherConfig{})
	records := sample(500)
	b.ReportAllocs()
	for i := 0; i < b.N; i += len(records) {
		if err := p.Publish(b.Context(), "events", records); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkThroughput is the cost of a record that is committed, by 500, and read while that goes on.
func BenchmarkThroughput(b *testing.B) {
	t := benchmarkStore(b)
	p, _ := t.Publisher(framework.PublisherConfig{})
	subscriber, _ := t.Subscriber(framework.SubscriberConfig{BatchEvents: 1000, InFlight: 2})
	defer subscriber.Close()
	messages, err := subscriber.Subscribe(b.Context(), "events")
	if err != nil {
		b.Fatal(err)
	}
	records := sample(500)
	n := (b.N + len(records) - 1) / len(records) * len(records)
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for i := 0; i < n; i += len(records) {
			_ = p.Publish(b.Context(), "events", records)
		}
	}()
	for read := 0; read < n; {
		msg := <-messages
		batch, _ := framework.BatchOf(msg)
		read += len(batch.Records)
		msg.Ack()
	}
}
