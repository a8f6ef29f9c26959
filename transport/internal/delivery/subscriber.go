package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
)

// Reader reads one partition. Its methods are called by one goroutine.
type Reader interface {
	// Next returns the next batch, without Seq; nil when there is nothing to read now, and then Wake
	// receives when it is worth asking again. An error ends the partition: the batch that comes with it
	// (see Failure) is delivered last.
	Next(ctx context.Context) (*framework.Batch, error)
	// Wake returns a channel that receives after Next returned nil and something has arrived. It may
	// receive without cause.
	Wake() <-chan struct{}
	// Acked tells that everything before a position is committed.
	Acked(position int64)
	// Close frees what the reader holds. Called once, by the loop.
	Close()
}

// Lingerer is a Reader that acknowledges to a broker: after the end of delivery, its loop goes on for a while to take
// the acknowledgements of batches that are out. Subscriber.Close waits for that.
type Lingerer interface {
	// Linger is how long, at most. The end of the context that was subscribed with ends it too.
	Linger() time.Duration
}

// Opener opens one reader for each partition of a topic: all, or none and an error.
type Opener func(ctx context.Context, topic string) ([]Reader, error)

// Subscriber implements message.Subscriber for batches.
type Subscriber struct {
	open     Opener
	inFlight int
	logger   *slog.Logger

	done  chan struct{}
	loops sync.WaitGroup

	mu     sync.Mutex
	closed bool
	err    error
}

// NewSubscriber makes a subscriber. Of the config it looks at InFlight and Logger.
func NewSubscriber(config framework.SubscriberConfig, open Opener) *Subscriber {
	logger := config.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Subscriber{
		open: open, inFlight: max(config.InFlight, 1), logger: logger,
		done: make(chan struct{}),
	}
}

// ErrClosed is returned by Subscribe after Close.
var ErrClosed = errors.New("subscriber is closed")

// Subscribe starts reading all partitions of a topic. The messages carry ctx, which Close does not
// cancel: what is being committed while the router closes can finish.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("subscribe to %q: %w", topic, ErrClosed)
	}
	readers, err := s.open(ctx, topic)
	if err != nil {
		return nil, err
	}
	subscription := s.begin(ctx, topic)
	for _, r := range readers {
		subscription.Start(r)
	}
	return subscription.out, nil
}

// Begin subscribes to a topic of which no partition is read until Subscription.Start.
func (s *Subscriber) Begin(ctx context.Context, topic string) (*Subscription, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("subscribe to %q: %w", topic, ErrClosed)
	}
	return s.begin(ctx, topic), nil
}

func (s *Subscriber) begin(ctx context.Context, topic string) *Subscription {
	inner, cancel := context.WithCancel(ctx)
	n := &Subscription{sub: s, topic: topic, out: make(chan *message.Message), messages: ctx, ctx: inner}
	s.loops.Go(func() {
		select {
		case <-s.done:
		case <-ctx.Done():
		}
		cancel()
		n.end()
	})
	return n
}

// Err returns the first error that ended the reading of a partition, nil when there was none.
func (s *Subscriber) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close stops delivery and closes the channels. It does not wait for acknowledgements, but for a Lingerer's.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.done)
	}
	s.mu.Unlock()
	s.loops.Wait()
	return nil
}

func (s *Subscriber) fail(topic string, err error) {
	s.logger.Error("reading stops", "topic", topic, "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// Failure is the batch that tells of a source that cannot be read any further: one record whose Err is
// marked fatal, at the position that could not be read, which the batch does not move past.
func Failure(topic string, partition int, position int64, origin string, err error) *framework.Batch {
	return &framework.Batch{
		Topic: topic, Partition: partition, Next: position, Origin: origin,
		Records: []framework.Record{{Offset: position, Err: framework.Fatal(err)}},
	}
}
