package stock

import (
	"context"
	"errors"
	"fmt"
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
	inner   message.Subscriber
	timeout time.Duration

	lock    sync.Mutex
	readers []*reader
	once    sync.Once
	err     error
}

func newSubscriber(inner message.Subscriber, config Config, engine framework.SubscriberConfig) *subscriber {
	s := &subscriber{inner: inner, timeout: config.CloseTimeout}
	s.Subscriber = delivery.NewSubscriber(engine, func(ctx context.Context, topic string) ([]delivery.Reader, error) {
		ctx, cancel := context.WithCancel(ctx)
		messages, err := inner.Subscribe(ctx, topic)
		if err != nil {
			cancel()
			return nil, fmt.Errorf("stock: subscribe to %q: %w", topic, err)
		}
		r := newReader(topic, messages, cancel, engine, config.SettleTimeout)
		s.lock.Lock()
		s.readers = append(s.readers, r)
		s.lock.Unlock()
		return []delivery.Reader{r}, nil
	})
	return s
}

// Close ends reading and closes the Watermill subscriber.
func (s *subscriber) Close() error {
	s.once.Do(func() {
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
