package memory_test

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/memory"
)

func batch(n int) []framework.Record {
	records := make([]framework.Record, n)
	for i := range records {
		records[i] = framework.Record{ID: fmt.Sprint("id-", i), Key: fmt.Sprint("customer-", i%1000), Value: make([]byte, 100)}
	}
	return records
}

// BenchmarkPublish is the cost of an event in batches of 500, with nobody reading.
func BenchmarkPublish(b *testing.B) {
	for _, partitions := range []int{1, 4} {
		b.Run(fmt.Sprintf("partitions=%d", partitions), func(b *testing.B) {
			transport, _ := memory.New(memory.Config{Partitions: partitions, AutoCreate: true})
			records := batch(500)
			b.ReportAllocs()
			for i := 0; i < b.N; i += len(records) {
				if err := transport.Publish("events", records...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkThroughput is the cost of an event that is published in batches of 500 and read in batches.
func BenchmarkThroughput(b *testing.B) {
	for _, partitions := range []int{1, 4} {
		b.Run(fmt.Sprintf("partitions=%d", partitions), func(b *testing.B) {
			transport, _ := memory.New(memory.Config{Partitions: partitions, AutoCreate: true})
			subscriber, _ := transport.Subscriber(framework.SubscriberConfig{BatchEvents: 1000, InFlight: 2})
			defer subscriber.Close()
			messages, err := subscriber.Subscribe(b.Context(), "events")
			if err != nil {
				b.Fatal(err)
			}
			records := batch(500)
			n := (b.N + len(records) - 1) / len(records) * len(records)
			b.ReportAllocs()
			b.ResetTimer()
			go func() {
				for i := 0; i < n; i += len(records) {
					_ = transport.Publish("events", records...)
				}
			}()
			for read := 0; read < n; {
				msg := <-messages
				b, _ := framework.BatchOf(msg)
				read += len(b.Records)
				msg.Ack()
			}
		})
	}
}

// BenchmarkRead is the cost of an event that is read, in batches of 1000.
func BenchmarkRead(b *testing.B) {
	transport, _ := memory.New(memory.Config{Partitions: 1, AutoCreate: true, RetainEvents: 1 << 20, RetainBytes: 1 << 30})
	const n = 200_000
	_ = transport.Publish("events", batch(n)...)
	b.ReportAllocs()
	for i := 0; i < b.N; i += n {
		subscriber, _ := transport.Subscriber(framework.SubscriberConfig{BatchEvents: 1000, InFlight: 2})
		messages, err := subscriber.Subscribe(b.Context(), "events")
		if err != nil {
			b.Fatal(err)
		}
		for read := 0; read < n; {
			msg := <-messages
			b, _ := framework.BatchOf(msg)
			read += len(b.Records)
			msg.Ack()
		}
		_ = subscriber.Close()
	}
}
