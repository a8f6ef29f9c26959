package stock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
)

// Transport is a Watermill Pub/Sub as the engine uses it. It holds nothing open by itself, so there is nothing to
// close. Its methods are safe for concurrent use where the Config's functions are.
type Transport struct {
	config Config

	lock    sync.Mutex
	readers map[string]string // pipelines that read in Config.Group, by topic
	reached bool              // Config.Reach has given no error
}

var (
	_ framework.Transport     = (*Transport)(nil)
	_ framework.TopicCreator  = (*Transport)(nil)
	_ framework.RecordChecker = (*Transport)(nil)
)

// ErrEnded is returned by Runner.Run when a Pub/Sub has ended a subscription that nobody has closed.
var ErrEnded = errors.New("the Pub/Sub has ended the subscription")

// New makes a transport.
func New(config Config) (*Transport, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("stock: config: %w", err)
	}
	return &Transport{config: config.WithDefaults(), readers: make(map[string]string)}, nil
}

// Topic describes a topic. Watermill has no way to ask whether there is one: any name is taken, and a topic that is not
// there is found, or made, by subscribing or publishing to it.
func (t *Transport) Topic(ctx context.Context, name string) (framework.TopicInfo, error) {
	if name == "" {
		return framework.TopicInfo{}, fmt.Errorf("stock: the name is empty: %w", framework.ErrNoTopic)
	}
	if err := t.reach(ctx); err != nil {
		return framework.TopicInfo{}, fmt.Errorf("stock: topic %q: %w", name, t.config.at(err))
	}
	return framework.TopicInfo{Partitions: 1}, nil
}

// CreateTopic lets the Pub/Sub make a topic, and what Config.Group needs to be sent what is published from now on. It
// does nothing where the Pub/Sub's subscriber is no message.SubscribeInitializer.
func (t *Transport) CreateTopic(ctx context.Context, name string, partitions int) error {
	if partitions < 0 || partitions > 1 {
		return fmt.Errorf("stock: create topic %q: %d partitions: to the engine it has 1; how the Pub/Sub divides it is "+
			"for the Pub/Sub's own settings", name, partitions)
	}
	if err := t.reach(ctx); err != nil {
		return fmt.Errorf("stock: create topic %q: %w", name, t.config.at(err))
	}
	s, err := t.subscriber(t.config.Group)
	if err != nil {
		return fmt.Errorf("stock: create topic %q: %w", name, t.config.at(err))
	}
	initializer, ok := s.(message.SubscribeInitializer)
	if ok {
		err = initializer.SubscribeInitialize(name)
	}
	if err := errors.Join(err, s.Close()); err != nil {
		return fmt.Errorf("stock: create topic %q: %w", name, t.config.at(err))
	}
	return nil
}

// Subscriber makes what reads topics in batches.
func (t *Transport) Subscriber(config framework.SubscriberConfig) (message.Subscriber, error) {
	group := cmp.Or(t.config.Group, config.Group)
	s, err := t.subscriber(group)
	if err != nil {
		return nil, fmt.Errorf("stock: subscriber of group %q: %w", group, t.config.at(err))
	}
	return newSubscriber(t, s, config), nil
}

func (t *Transport) subscriber(group string) (message.Subscriber, error) {
	if t.config.Subscriber == nil {
		return nil, errors.New("there is no Config.Subscriber to read with")
	}
	s, err := t.config.Subscriber(group)
	if err == nil && s == nil {
		err = errors.New("Config.Subscriber gave none")
	}
	return s, err
}

// RecordCheck refuses records without a value, and asks Config.RecordCheck.
func (t *Transport) RecordCheck(ctx context.Context, topic string) func(*framework.Record) error {
	var more func(*framework.Record) error
	if t.config.RecordCheck != nil {
		more = t.config.RecordCheck(ctx, topic)
	}
	return func(r *framework.Record) error {
		switch {
		case r.Value == nil:
			return fmt.Errorf("stock: topic %q: the event is Deleted, and a message cannot say that there is no value", topic)
		case more != nil:
			return more(r)
		}
		return nil
	}
}

// Publisher makes what writes topics.
func (t *Transport) Publisher(framework.PublisherConfig) (framework.Publisher, error) {
	if t.config.Publisher == nil {
		return nil, errors.New("stock: there is no Config.Publisher to write with")
	}
	p, err := t.config.Publisher()
	if err == nil && p == nil {
		err = errors.New("Config.Publisher gave none")
	}
	if err != nil {
		return nil, fmt.Errorf("stock: publisher: %w", t.config.at(err))
	}
	return &publisher{inner: p, config: t.config, reach: t.reach}, nil
}
