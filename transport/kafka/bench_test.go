package kafka_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/kafka"
)

// The benchmarks need a real broker: a fake one would count itself. Each has its like on the bare client, which is what
// the transport adds to. Time and allocations are for one record of 240 bytes with the engine's attributes.

func benchRecords(n int) []framework.Record {
	records := make([]framework.Record, n)
	value := bytes.Repeat([]byte("x"), 240)
	for i := range records {
		records[i] = framework.Record{
			ID: fmt.Sprintf("%032d", i), Key: fmt.Sprint("customer ", i%1000), Type: "order.placed", Source: "shop",
			Time: time.Now().UTC(), Value: value, Causes: fmt.Sprintf("%032d", i+1), Step: "orders/placed",
		}
	}
	return records
}

func benchTopic(b *testing.B) (*kafka.Transport, kafka.Config, string) {
	b.Helper()
	config := broker(b)
	transport := open(b, config)
	topic := own(b) + "bench"
	must(b, transport.CreateTopic(b.Context(), topic, 4))
	return transport, config, topic
}

const benchBatch = 500 // records of one Publish

func BenchmarkPublish(b *testing.B) {
	transport, _, topic := benchTopic(b)
	publisher, err := transport.Publisher(framework.PublisherConfig{})
	must(b, err)
	records := benchRecords(benchBatch)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%benchBatch == 0 {
			must(b, publisher.Publish(b.Context(), topic, records))
		}
	}
}

func BenchmarkPublishBare(b *testing.B) {
	transport, config, topic := benchTopic(b)
	_ = transport
	client, err := kgo.NewClient(kgo.SeedBrokers(config.Brokers...), kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()))
	must(b, err)
	defer client.Close()
	var header []kgo.RecordHeader
	for i := range 8 {
		header = append(header, kgo.RecordHeader{Key: fmt.Sprint("ce_header", i), Value: bytes.Repeat([]byte("v"), 16)})
	}
	value := bytes.Repeat([]byte("x"), 240)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%benchBatch == 0 {
			records := make([]*kgo.Record, benchBatch)
			for i := range records {
				records[i] = &kgo.Record{Key: fmt.Append(nil, "customer ", i), Value: value, Headers: header}
			}
			must(b, client.ProduceSync(b.Context(), records...).FirstErr())
		}
	}
}

// fill writes as many records as a benchmark reads.
func fill(b *testing.B, transport *kafka.Transport, topic string, n int) {
	b.Helper()
	publisher, err := transport.Publisher(framework.PublisherConfig{})
	must(b, err)
	for records := benchRecords(10_000); n > 0; n -= 10_000 {
		must(b, publisher.Publish(b.Context(), topic, records))
	}
}

func BenchmarkConsume(b *testing.B) {
	transport, _, topic := benchTopic(b)
	fill(b, transport, topic, b.N)
	b.ReportAllocs()
	b.ResetTimer()
	subscriber, err := transport.Subscriber(framework.SubscriberConfig{BatchEvents: 1000, BatchBytes: 1 << 20, InFlight: 3})
	must(b, err)
	defer subscriber.Close()
	messages, err := subscriber.Subscribe(b.Context(), topic)
	must(b, err)
	for n := 0; n < b.N; {
		msg := <-messages
		batch, _ := framework.BatchOf(msg)
		n += len(batch.Records)
		msg.Ack()
	}
	b.StopTimer()
}

func BenchmarkConsumeBare(b *testing.B) {
	transport, config, topic := benchTopic(b)
	fill(b, transport, topic, b.N)
	b.ReportAllocs()
	b.ResetTimer()
	client, err := kgo.NewClient(kgo.SeedBrokers(config.Brokers...), kgo.ConsumeTopics(topic), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))
	must(b, err)
	defer client.Close()
	for n := 0; n < b.N; {
		n += client.PollFetches(b.Context()).NumRecords()
	}
	b.StopTimer()
}
