package main

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	watermillkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	watermillsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
)

// forwarderSystem is Watermill's forwarder over watermill-sql. Zero values are its defaults.
type forwarderSystem struct {
	batch int
	poll  time.Duration
}

func (s *forwarderSystem) schema(b *bench) watermillsql.SchemaAdapter {
	return watermillsql.DefaultPostgreSQLSchema{
		SubscribeBatchSize: s.batch, GenerateMessagesTableName: func(string) string { return b.name },
	}
}

func (s *forwarderSystem) offsets(b *bench) watermillsql.OffsetsAdapter {
	return watermillsql.DefaultPostgreSQLOffsetsAdapter{
		GenerateMessagesOffsetsTableName: func(string) string { return b.name + "_offsets" },
	}
}

func (s *forwarderSystem) create(b *bench) error {
	subscriber, err := s.subscriber(b)
	if err != nil {
		return err
	}
	return errors.Join(subscriber.SubscribeInitialize(b.name), subscriber.Close())
}

func (s *forwarderSystem) subscriber(b *bench) (*watermillsql.Subscriber, error) {
	return watermillsql.NewSubscriber(b.db, watermillsql.SubscriberConfig{
		PollInterval: s.poll, SchemaAdapter: s.schema(b), OffsetsAdapter: s.offsets(b), InitializeSchema: true,
	}, watermill.NopLogger{})
}

func (s *forwarderSystem) write(b *bench, tx *sql.Tx, events []int) error {
	inner, err := watermillsql.NewPublisher(tx, watermillsql.PublisherConfig{SchemaAdapter: s.schema(b)}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	messages := make([]*message.Message, len(events))
	for n, i := range events {
		messages[n] = message.NewMessage(eventID(i), payload)
		messages[n].Metadata.Set("key", eventKey(i))
	}
	return forwarder.NewPublisher(inner, forwarder.PublisherConfig{ForwarderTopic: b.name}).Publish(b.name, messages...)
}

func (s *forwarderSystem) committed(*bench) {}

// arrivals counts what a publisher has taken, and closes done when that is all.
type arrivals struct {
	message.Publisher
	ledger *ledger // nil where Kafka is the sink
	left   int
	done   chan struct{}
}

func (a *arrivals) Publish(topic string, messages ...*message.Message) error {
	if a.Publisher != nil {
		if err := a.Publisher.Publish(topic, messages...); err != nil {
			return err
		}
	}
	for _, msg := range messages {
		if a.ledger != nil {
			a.ledger.arrived(msg.UUID)
		}
		if a.left--; a.left == 0 {
			close(a.done)
		}
	}
	return nil
}

func (a *arrivals) Close() error {
	if a.Publisher == nil {
		return nil
	}
	return a.Publisher.Close()
}

// start runs the forwarder until stop is called.
func (s *forwarderSystem) start(b *bench) (done <-chan struct{}, stop func() error, err error) {
	out := &arrivals{left: b.rows, done: make(chan struct{})}
	if b.kafka {
		out.Publisher, err = watermillkafka.NewPublisher(watermillkafka.PublisherConfig{
			Brokers: []string{b.broker},
			Marshaler: watermillkafka.NewWithPartitioningMarshaler(func(_ string, msg *message.Message) (string, error) {
				return msg.Metadata.Get("key"), nil
			}),
		}, watermill.NopLogger{})
		if err != nil {
			return nil, nil, err
		}
	} else {
		out.ledger = b.ledger
	}
	subscriber, err := s.subscriber(b)
	if err != nil {
		return nil, nil, err
	}
	f, err := forwarder.NewForwarder(subscriber, out, watermill.NopLogger{}, forwarder.Config{ForwarderTopic: b.name})
	if err != nil {
		return nil, nil, err
	}
	ended := make(chan error, 1)
	b.meter.start()
	go func() { ended <- f.Run(context.WithoutCancel(b.ctx)) }()
	<-f.Running()
	return out.done, func() error { return errors.Join(f.Close(), <-ended, out.Close()) }, nil // the router closes the subscriber
}

func (s *forwarderSystem) drain(b *bench) error {
	done, stop, err := s.start(b)
	if err != nil {
		return err
	}
	select {
	case <-done:
	case <-b.ctx.Done():
		return errors.Join(b.ctx.Err(), stop())
	}
	b.meter.stop()
	return stop()
}

func (s *forwarderSystem) serve(b *bench) (func() error, error) {
	_, stop, err := s.start(b)
	return stop, err
}

func (s *forwarderSystem) drop(*bench) error { return nil }
