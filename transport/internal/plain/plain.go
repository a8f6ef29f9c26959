package plain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
)

// Reader names who reads: a group, or, with an empty Group, one subscription of its own whose position
// is not kept.
type Reader struct {
	Group string
	ID    uint64
}

// Backend is what a transport gives. Its methods are safe for concurrent use.
type Backend interface {
	// Open returns the number of partitions of a topic, making the topic if the transport does so.
	Open(ctx context.Context, topic string) (int, error)
	// Read returns some records from an offset on, at least one: it waits. When the oldest are gone it
	// returns the oldest there are.
	Read(ctx context.Context, topic string, partition int, offset int64) ([]framework.Record, error)
	// Load returns where a reader goes on.
	Load(reader Reader, topic string, partition int) (int64, error)
	// Save keeps where a reader goes on.
	Save(ctx context.Context, reader Reader, topic string, partition int, position int64) error
	// Forget drops a reader without a group.
	Forget(reader Reader, topic string)
	// Publish sends records.
	Publish(ctx context.Context, topic string, records []framework.Record) error
}

// Groups holds the consumer groups of one transport.
type Groups struct {
	backend Backend
	mu      sync.Mutex
	slots   map[slotKey]chan place
	last    uint64
}

type slotKey struct {
	reader    Reader
	topic     string
	partition int
}

// place is the token of a partition: where its group goes on, and what was read ahead from there.
type place struct {
	position int64
	ahead    []framework.Record
}

// NewGroups makes the groups of a transport.
func NewGroups(b Backend) *Groups {
	return &Groups{backend: b, slots: make(map[slotKey]chan place)}
}

func (g *Groups) slot(key slotKey) (chan place, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s, ok := g.slots[key]; ok {
		return s, nil
	}
	position, err := g.backend.Load(key.reader, key.topic, key.partition)
	if err != nil {
		return nil, err
	}
	s := make(chan place, 1)
	s <- place{position: position}
	g.slots[key] = s
	return s, nil
}

func (g *Groups) forget(reader Reader, topic string, partitions int) {
	g.mu.Lock()
	for p := range partitions {
		delete(g.slots, slotKey{reader, topic, p})
	}
	g.mu.Unlock()
	g.backend.Forget(reader, topic)
}

func (g *Groups) reader(group string) Reader {
	if group != "" {
		return Reader{Group: group}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last++
	return Reader{ID: g.last}
}

// Config of a PubSub.
type Config struct {
	// Group shares a topic's messages among its members and goes on where it was. Empty: each
	// subscription receives every message from the oldest on.
	Group string
	// Logger receives what no caller can be told. Default: none.
	Logger *slog.Logger
}

// ErrClosed is returned by Publish and Subscribe after Close.
var ErrClosed = errors.New("pub/sub is closed")

// PubSub is the face: a message.Publisher and a message.Subscriber.
type PubSub struct {
	groups *Groups
	config Config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	active sync.WaitGroup
	mu     sync.RWMutex
	closed bool
}

// PubSub makes a face.
func (g *Groups) PubSub(config Config) *PubSub {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &PubSub{groups: g, config: config, ctx: ctx, cancel: cancel}
}

// Publish sends messages; it returns when the transport has them. The CloudEvents metadata key
// ce_partitionkey decides the partition; without it the id does. An error may leave some sent.
func (p *PubSub) Publish(topic string, messages ...*message.Message) error {
	p.mu.RLock()
	if p.closed {
		p.mu.RUnlock()
		return fmt.Errorf("publish to %q: %w", topic, ErrClosed)
	}
	p.active.Add(1)
	p.mu.RUnlock()
	defer p.active.Done()
	if len(messages) == 0 {
		return nil
	}
	records, err := Records(messages)
	if err != nil {
		return fmt.Errorf("publish to %q: %w", topic, err)
	}
	ctx, cancel := context.WithCancel(messages[0].Context())
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	return p.groups.backend.Publish(ctx, topic, records)
}

// Records makes records of messages.
func Records(messages []*message.Message) ([]framework.Record, error) {
	records := make([]framework.Record, len(messages))
	for i, m := range messages {
		records[i] = framework.FromMessage(m)
		if err := records[i].Err; err != nil {
			return nil, fmt.Errorf("message %q: %w", m.UUID, err)
		}
	}
	return records, nil
}

// Close ends all subscriptions and waits for them and for what is being published. A message that is
// out and not acknowledged is delivered again, to another member or after the next Subscribe.
func (p *PubSub) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.active.Wait()
	return nil
}
