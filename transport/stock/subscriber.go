package stock

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/internal/delivery"
)

// subscriber delivers the messages of a Watermill subscriber in batches.
//
// Close goes through these steps, each bounded:
//
//  1. Delivery stops: nothing more is handed to the engine.
//  2. Batches that are out settle: the engine commits what it is at, which acknowledges it, and refuses the rest.
//  3. What is left is refused, so that the Pub/Sub need not wait for a time-out to deliver it again; and in the same
//     moment the subscription is cancelled, for many Pub/Subs deliver a refused message again at once.
//  4. The Watermill subscriber is closed, and what it hands out until then is refused too.
type subscriber struct {
	*delivery.Subscriber
	t        *Transport
	inner    message.Subscriber
	timeout  time.Duration
	pipeline string

	lock    sync.Mutex
	readers []*reader
	once    sync.Once
	err     error
}

func newSubscriber(t *Transport, inner message.Subscriber, engine framework.SubscriberConfig) *subscriber {
	s := &subscriber{t: t, inner: inner, timeout: t.config.CloseTimeout, pipeline: engine.Group}
	s.Subscriber = delivery.NewSubscriber(engine, func(ctx context.Context, topic string) ([]delivery.Reader, error) {
		if err := s.claim(topic); err != nil {
			return nil, err
		}
		ctx, cancel := context.WithCancel(ctx)
		messages, err := inner.Subscribe(ctx, topic)
		if err != nil {
			cancel()
			return nil, fmt.Errorf("stock: subscribe to %q: %w", topic, t.config.at(err))
		}
		r := newReader(topic, messages, cancel, engine, t.config.SettleTimeout)
		s.lock.Lock()
		s.readers = append(s.readers, r)
		s.lock.Unlock()
		return []delivery.Reader{r}, nil
	})
	return s
}

// claim notes which pipeline reads a topic. Two of one group would be sent a part of the messages each.
func (s *subscriber) claim(topic string) error {
	if s.t.config.Group == "" { // each has its own
		return nil
	}
	s.t.lock.Lock()
	defer s.t.lock.Unlock()
	if other, read := s.t.readers[topic]; read && other != s.pipeline {
		return fmt.Errorf("stock: subscribe to %q: pipelines %q and %q would share its messages in the group %q: leave Config.Group, in an "+
			"address group=, away, and each gets all of them", topic, other, s.pipeline, s.t.config.Group)
	}
	s.t.readers[topic] = s.pipeline
	return nil
}

// release lets other pipelines read what this one has read.
func (s *subscriber) release() {
	s.t.lock.Lock()
	defer s.t.lock.Unlock()
	maps.DeleteFunc(s.t.readers, func(_, pipeline string) bool { return pipeline == s.pipeline })
}

// Close ends reading and closes the Watermill subscriber.
func (s *subscriber) Close() error {
	s.once.Do(func() {
		defer s.release()
		err := s.Subscriber.Close()
		closed := make(chan error, 1)
		go func() { closed <- s.inner.Close() }()
		timeout := time.NewTimer(s.timeout)
		defer timeout.Stop()
		select {
		case inner := <-closed:
			err = errors.Join(err, inner)
		case <-timeout.C:
			s.err = fmt.Errorf("stock: close the subscriber: it did not end within %v", s.timeout)
			return
		}
		for _, r := range s.readers {
			select {
			case <-r.collected:
			case <-timeout.C:
				err = errors.Join(err, fmt.Errorf("the subscription to %q did not end within %v", r.topic, s.timeout))
			}
		}
		if err != nil {
			s.err = fmt.Errorf("stock: close the subscriber: %w", err)
		}
	})
	return s.err
}
