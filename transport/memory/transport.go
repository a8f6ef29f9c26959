package memory

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/internal/delivery"
	"github.com/millrace/millrace/transport/internal/plain"
)

// Transport holds topics in memory. It implements framework.TopicCreator and framework.TopicReader; its
// methods are safe for concurrent use.
type Transport struct {
	config Config
	groups *plain.Groups
	done   chan struct{}

	mu     sync.RWMutex
	closed bool
	topics map[string]*topic
}

var (
	_ framework.Transport    = (*Transport)(nil)
	_ framework.TopicCreator = (*Transport)(nil)
)

// ErrEnded is returned by Publish for a topic that End has ended.
var ErrEnded = errors.New("topic has ended")

// ErrClosed is returned by Publish once the transport is closed.
var ErrClosed = errors.New("transport is closed")

// New makes an empty transport.
func New(config Config) (*Transport, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("memory: config: %w", err)
	}
	t := &Transport{config: config.WithDefaults(), done: make(chan struct{}), topics: make(map[string]*topic)}
	t.groups = plain.NewGroups(backend{t})
	return t, nil
}

// Topic describes a topic.
func (t *Transport) Topic(_ context.Context, name string) (framework.TopicInfo, error) {
	topic, err := t.topic(name)
	if err != nil {
		return framework.TopicInfo{}, err
	}
	topic.mu.Lock()
	defer topic.mu.Unlock()
	info := framework.TopicInfo{
		Partitions: len(topic.partitions), Positioned: true, Bounded: t.config.Bounded || topic.ended,
	}
	for i := range topic.partitions {
		info.Size += topic.partitions[i].end - topic.partitions[i].start
	}
	return info, nil
}

// CreateTopic makes a topic unless it is there with as many partitions. 0: Config.Partitions.
func (t *Transport) CreateTopic(_ context.Context, name string, partitions int) error {
	if name == "" {
		return errors.New("memory: create topic: the name is empty")
	}
	if partitions < 0 || partitions > maxPartitions {
		return fmt.Errorf("memory: create topic %q: %d partitions: it must be 1 to %d, or 0 for the default of %d",
			name, partitions, maxPartitions, t.config.Partitions)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if is := t.topics[name]; is != nil {
		if partitions != 0 && partitions != len(is.partitions) {
			return fmt.Errorf("memory: create topic %q: it has %d partitions, not %d", name, len(is.partitions), partitions)
		}
		return nil
	}
	if partitions == 0 {
		partitions = t.config.Partitions
	}
	t.topics[name] = newTopic(name, partitions, t.config, t.done)
	return nil
}

// Subscriber makes what reads topics in batches, all partitions of each.
func (t *Transport) Subscriber(config framework.SubscriberConfig) (message.Subscriber, error) {
	return delivery.NewSubscriber(config, func(_ context.Context, name string) ([]delivery.Reader, error) {
		topic, err := t.topic(name)
		if err != nil {
			return nil, err
		}
		return topic.subscribe(config)
	}), nil
}

// Publisher makes what writes topics.
func (t *Transport) Publisher(framework.PublisherConfig) (framework.Publisher, error) {
	return publisher{t}, nil
}

// Close ends waiting in Publish and refuses further records. It may be called twice.
func (t *Transport) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.closed = true
		close(t.done)
	}
	return nil
}

// topic finds a topic, or makes it if that was asked for.
func (t *Transport) topic(name string) (*topic, error) {
	t.mu.RLock()
	found := t.topics[name]
	t.mu.RUnlock()
	if found != nil {
		return found, nil
	}
	if !t.config.AutoCreate {
		return nil, fmt.Errorf("memory: topic %q: %w: make it with CreateTopic, or set Config.AutoCreate",
			name, framework.ErrNoTopic)
	}
	if err := t.CreateTopic(context.Background(), name, 0); err != nil {
		return nil, err
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.topics[name], nil
}

type publisher struct{ t *Transport }

func (p publisher) Publish(ctx context.Context, name string, records []framework.Record) error {
	topic, err := p.t.topic(name)
	if err != nil {
		return err
	}
	return topic.publish(ctx, records)
}

func (p publisher) Close() error { return nil }
