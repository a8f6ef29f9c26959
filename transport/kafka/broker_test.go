package kafka_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/transport/kafka"
	"github.com/millrace/millrace/transport/transporttest"
)

// The suites on a real broker. It is shared, and may be anybody's: topics get names of their own.

func broker(t testing.TB) kafka.Config {
	t.Helper()
	return kafka.Config{Brokers: []string{services.Kafka(t)}}
}

func own(t testing.TB) string {
	return fmt.Sprintf("millrace-test-%d-%d.", time.Now().UnixNano(), len(t.Name()))
}

func TestTransportOnBroker(t *testing.T) {
	config := broker(t)
	transporttest.Run(t, func(t testing.TB) transporttest.Fixture {
		prefix := own(t)
		return transporttest.Fixture{
			Transport: &renamed{open(t, config), prefix},
			Restart:   func(t testing.TB) framework.Transport { return &renamed{open(t, config), prefix} },
		}
	}, transporttest.Features{})
}

func TestWatermillKafkaOnBroker(t *testing.T) {
	watermillKafka(t, broker(t).Brokers, own(t)+"events")
}

// renamed puts a prefix before the names of topics.
type renamed struct {
	*kafka.Transport
	prefix string
}

func (r *renamed) Topic(ctx context.Context, name string) (framework.TopicInfo, error) {
	return r.Transport.Topic(ctx, r.prefix+name)
}

func (r *renamed) CreateTopic(ctx context.Context, name string, partitions int) error {
	return r.Transport.CreateTopic(ctx, r.prefix+name, partitions)
}

func (r *renamed) Read(ctx context.Context, name string, partition int, from int64, fn func(framework.Record) error) (int64, error) {
	return r.Transport.Read(ctx, r.prefix+name, partition, from, fn)
}

func (r *renamed) Publisher(config framework.PublisherConfig) (framework.Publisher, error) {
	p, err := r.Transport.Publisher(config)
	return renamedPublisher{p, r.prefix}, err
}

func (r *renamed) Subscriber(config framework.SubscriberConfig) (message.Subscriber, error) {
	if start := config.Start; start != nil {
		config.Start = func(name string, partition int) (int64, bool) {
			return start(strings.TrimPrefix(name, r.prefix), partition)
		}
	}
	s, err := r.Transport.Subscriber(config)
	return renamedSubscriber{s, r.prefix}, err
}

type renamedPublisher struct {
	framework.Publisher
	prefix string
}

func (r renamedPublisher) Publish(ctx context.Context, topic string, records []framework.Record) error {
	return r.Publisher.Publish(ctx, r.prefix+topic, records)
}

type renamedSubscriber struct {
	message.Subscriber
	prefix string
}

func (r renamedSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	return r.Subscriber.Subscribe(ctx, r.prefix+topic)
}
