package kafka_test

import (
	"maps"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	millrace "github.com/millrace/millrace/transport/kafka"
)

// Messages of watermill-kafka's default marshaler are records with their UUID as id, and records are messages for it.
func TestWatermillKafka(t *testing.T) {
	brokers := fake(t).ListenAddrs()
	watermillKafka(t, brokers, "events")
}

func watermillKafka(t *testing.T, brokers []string, topic string) {
	transport := open(t, millrace.Config{Brokers: brokers})
	must(t, transport.CreateTopic(t.Context(), topic, 1))

	theirs, err := kafka.NewPublisher(kafka.PublisherConfig{Brokers: brokers, Marshaler: kafka.DefaultMarshaler{}}, watermill.NopLogger{})
	must(t, err)
	defer theirs.Close()
	sent := message.NewMessage("uuid-1", []byte("from them"))
	sent.Metadata.Set("name", "value")
	must(t, theirs.Publish(topic, sent))

	subscriber, err := transport.Subscriber(framework.SubscriberConfig{BatchEvents: 10})
	must(t, err)
	defer subscriber.Close()
	messages, err := subscriber.Subscribe(t.Context(), topic)
	must(t, err)
	got, _ := take(t, messages, 1)
	if r := got[0]; r.ID != "uuid-1" || string(r.Value) != "from them" || !maps.Equal(r.Metadata, map[string]string{"name": "value"}) {
		t.Errorf("their message came as %+v", r)
	}

	ours := framework.Record{
		ID: "id-2", Type: "order.placed", Source: "/shop", Key: "k", Time: time.Date(2026, 7, 1, 0, 0, 0, 5, time.UTC),
		Value: []byte("from us"), Metadata: map[string]string{"traceparent": "00-1"},
	}
	publisher, err := transport.Publisher(framework.PublisherConfig{})
	must(t, err)
	must(t, publisher.Publish(t.Context(), topic, []framework.Record{ours}))

	config := kafka.DefaultSaramaSubscriberConfig()
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	reader, err := kafka.NewSubscriber(kafka.SubscriberConfig{
		Brokers: brokers, Unmarshaler: kafka.DefaultMarshaler{}, OverwriteSaramaConfig: config, ConsumerGroup: "theirs-" + topic,
	}, watermill.NopLogger{})
	must(t, err)
	defer reader.Close()
	theirMessages, err := reader.Subscribe(t.Context(), topic)
	must(t, err)
	for _, want := range []string{"uuid-1", "id-2"} {
		select {
		case msg := <-theirMessages:
			if msg.UUID != want {
				t.Errorf("their subscriber has %q, want %q", msg.UUID, want)
			}
			if want == "id-2" {
				metadata := message.Metadata{"ce_id": "id-2", "ce_specversion": "1.0", "ce_type": "order.placed", "ce_source": "/shop",
					"ce_time": "2026-07-01T00:00:00.000000005Z", "traceparent": "00-1"}
				if string(msg.Payload) != "from us" || !maps.Equal(msg.Metadata, metadata) {
					t.Errorf("our record came as %s with %v", msg.Payload, msg.Metadata)
				}
			}
			msg.Ack()
		case <-time.After(patience):
			t.Fatal("their subscriber receives nothing")
		}
	}
}
