// Command watermill is a stock Watermill router over watermill-kafka, a handler for each topic. Settings are the
// defaults, but for what is needed to read from the beginning, to keep keys, and to wait for all replicas. W2 keeps its
// histories in Badger.
package main

import (
	"context"
	"encoding/json"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/benchmarks/peers/internal/orders"
	"github.com/millrace/millrace/benchmarks/peers/internal/system"
)

func main() { system.Main(run) }

// marshaler carries the metadata "key" as Kafka's key; the default one has no key.
var marshaler = kafka.NewWithPartitioningMarshaler(func(_ string, m *message.Message) (string, error) {
	return m.Metadata.Get("key"), nil
})

func run(ctx context.Context, task *system.Task) error {
	logger := watermill.NopLogger{}
	router, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		return err
	}
	written := kafka.DefaultSaramaSyncPublisherConfig()
	written.Producer.RequiredAcks = sarama.WaitForAll
	publisher, err := kafka.NewPublisher(kafka.PublisherConfig{
		Brokers: []string{task.Brokers}, Marshaler: marshaler, OverwriteSaramaConfig: written,
	}, logger)
	if err != nil {
		return err
	}
	if task.Workload == "W1" {
		err = handle(router, publisher, task, "enrich", task.Orders, enrich(task))
	} else {
		var j *joiner
		if j, err = openJoiner(task); err != nil {
			return err
		}
		defer func() { _ = j.db.Close() }()
		if err = handle(router, publisher, task, "orders", task.Orders, j.order); err == nil {
			err = handle(router, publisher, task, "payments", task.Payments, j.payment)
		}
	}
	if err != nil {
		return err
	}
	return router.Run(ctx)
}

// handle adds a handler with a subscriber, and so a consumer group, of its own.
func handle(router *message.Router, out message.Publisher, task *system.Task, name, topic string, f message.HandlerFunc) error {
	read := kafka.DefaultSaramaSubscriberConfig()
	read.Consumer.Offsets.Initial = sarama.OffsetOldest
	read.Consumer.Group.Session.Timeout = system.SessionTimeout
	read.Consumer.Group.Heartbeat.Interval = system.Heartbeat
	in, err := kafka.NewSubscriber(kafka.SubscriberConfig{
		Brokers: []string{task.Brokers}, Unmarshaler: marshaler, ConsumerGroup: task.Group + "-" + name, OverwriteSaramaConfig: read,
	}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	router.AddHandler(name, topic, in, task.Out, out, f)
	return nil
}

// enrich is W1.
func enrich(task *system.Task) message.HandlerFunc {
	rates, tiers := orders.Rates(), orders.Tiers()
	return func(m *message.Message) ([]*message.Message, error) {
		task.Consuming()
		var o orders.Order
		if err := json.Unmarshal(m.Payload, &o); err != nil {
			return nil, err
		}
		if !o.Wanted() {
			return nil, nil
		}
		return output(o.Customer, &orders.Priced{Order: o, Rate: rates[o.Currency], Tier: tiers[o.Customer]})
	}
}

// output is a message with a key.
func output(key string, v any) ([]*message.Message, error) {
	value, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	m := message.NewMessage(watermill.NewUUID(), value)
	m.Metadata.Set("key", key)
	return []*message.Message{m}, nil
}
