package kafka

import (
	"context"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/internal/delivery"
)

// Subscriber makes what reads topics in batches: all partitions of each or, with Assignments, those that the consumer
// group assigns to it; it then is a framework.Marker.
func (t *Transport) Subscriber(config framework.SubscriberConfig) (message.Subscriber, error) {
	t.lent.take(config.Logger)
	if config.Assignments != nil {
		return t.shared(config)
	}
	s := &subscriber{t: t, config: config, topics: make(map[string]bool)}
	s.Subscriber = delivery.NewSubscriber(config, s.open)
	return s, nil
}

// subscriber reads whole topics, with one client for all of them.
type subscriber struct {
	*delivery.Subscriber
	t      *Transport
	config framework.SubscriberConfig

	mu       sync.Mutex
	consumer *consumer
	topics   map[string]bool // that were ever subscribed to
}

// Close ends delivery, then reading.
func (s *subscriber) Close() error {
	err := s.Subscriber.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.consumer != nil {
		s.consumer.close()
		s.consumer = nil
	}
	return err
}

func (s *subscriber) open(ctx context.Context, topic string) ([]delivery.Reader, error) {
	starts, err := s.t.starts(ctx, topic, s.config.Start)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.topics[topic] {
		return nil, fmt.Errorf("kafka: subscribe to %q: a subscriber subscribes to a topic once", topic)
	}
	if s.consumer == nil {
		if s.consumer, err = s.t.newConsumer(); err != nil {
			return nil, err
		}
		s.consumer.begin()
	}
	s.topics[topic] = true
	readers := make([]*reader, len(starts))
	opened := make([]delivery.Reader, len(starts))
	offsets := make(map[int32]kgo.Offset, len(starts))
	for i, at := range starts {
		readers[i] = newReader(s.consumer, place{topic, int32(i)}, at.start, at.end, &s.config)
		opened[i] = readers[i]
		offsets[int32(i)] = kgo.NewOffset().At(at.start)
	}
	s.consumer.add(readers...)
	s.consumer.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: offsets})
	return opened, nil
}

// starts tells for each partition of a topic where to begin and where it ends now.
func (t *Transport) starts(ctx context.Context, topic string, position func(string, int) (int64, bool)) ([]span, error) {
	n, err := t.partitions(ctx, topic)
	if err != nil {
		return nil, err
	}
	all, err := t.ranges(ctx, topic, n)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if err := t.begin(ctx, &all[i], place{topic, int32(i)}, position); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// begin moves the start of a partition's range to where reading begins.
func (t *Transport) begin(ctx context.Context, r *span, at place, position func(string, int) (int64, bool)) error {
	from, known := int64(0), false
	if position != nil {
		from, known = position(at.topic, int(at.partition))
	}
	switch {
	case !known && r.start > 0:
		t.config.Logger.Warn("kafka: the oldest records of a topic are gone",
			"topic", at.topic, "partition", at.partition, "oldest", r.start)
	case !known:
	case from < r.start:
		return t.config.outOfRange(at, from, r.start, r.end)
	case from > r.end: // which is before transactions that are open
		end, err := t.newest(ctx, at)
		if err != nil {
			return err
		}
		if from > end {
			return t.config.outOfRange(at, from, r.start, end)
		}
		r.start = from
	default:
		r.start = from
	}
	return nil
}
