package stock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
)

// Config of a Transport. Subscriber, Publisher or both are needed; the zero value of all else is a default.
type Config struct {
	// Subscriber makes what reads for a consumer group. It is called for each source that is read, and what it returns
	// is closed when the reading ends. A Pub/Sub with consumer groups must use the group, or two pipelines take each
	// other's messages. For one subscriber that serves all, see SharedSubscriber. Default: nothing can be read.
	Subscriber func(group string) (message.Subscriber, error)
	// Publisher makes what writes. It is called for each topic that is written to, and what it returns is closed at the
	// end of the run. For one publisher that serves all, see SharedPublisher. Default: nothing can be written.
	Publisher func() (message.Publisher, error)
	// Group is the group that Subscriber is asked for, for pipelines that read other topics: two of one topic would be sent
	// a part of its messages each, which is an error where both are of one program. Default: the name of the pipeline.
	Group string
	// Where says in errors where the Pub/Sub is, such as an address without its password; with it they also say what to do,
	// where that is known. Default: they say neither.
	Where string
	// PublishMessages is how many messages are given to one call of the publisher at most. Default 100.
	PublishMessages int
	// Classify marks errors of the publisher: with framework.Permanent or framework.Fatal those that trying again
	// does not mend, which end the run, or with framework.ErrTooLarge in it make the record a dead letter. What it returns
	// takes the error's place. Default: all errors pass, and the records are sent again, for ever.
	Classify func(error) error
	// Reach tells whether the Pub/Sub answers. It is asked before a topic is used, until it has answered once: many clients
	// wait for ever for a server that takes a connection and says nothing, as one of another kind does. See Dialer. Default:
	// nobody asks.
	Reach func(ctx context.Context) error
	// ReachTimeout bounds how long Reach may take. Default 15 s.
	ReachTimeout time.Duration
	// RecordCheck is framework.RecordChecker's, for a Pub/Sub of which it is known what it takes: an event that would send
	// more fails before anything of it is committed. Default: nothing is known.
	RecordCheck func(ctx context.Context, topic string) func(*framework.Record) error
	// SettleTimeout bounds how long closing a subscriber waits for the batches that are out. What is not acknowledged
	// then comes again after the next start. Default 5 s.
	SettleTimeout time.Duration
	// CloseTimeout bounds how long closing waits for the Pub/Sub to end a subscription, and a call of Publish. What
	// does not end by then is an error, and left alone. Default 10 s.
	CloseTimeout time.Duration
}

// WithDefaults returns a copy with the defaults filled in.
func (c Config) WithDefaults() Config {
	if c.PublishMessages == 0 {
		c.PublishMessages = 100
	}
	if c.ReachTimeout == 0 {
		c.ReachTimeout = 15 * time.Second
	}
	if c.SettleTimeout == 0 {
		c.SettleTimeout = 5 * time.Second
	}
	if c.CloseTimeout == 0 {
		c.CloseTimeout = 10 * time.Second
	}
	if c.Classify == nil {
		c.Classify = func(err error) error { return err }
	}
	return c
}

// Validate names every field that cannot be used.
func (c Config) Validate() error {
	var faults []error
	if c.Subscriber == nil && c.Publisher == nil {
		faults = append(faults, errors.New("neither Subscriber nor Publisher is set"))
	}
	if c.PublishMessages < 0 {
		faults = append(faults, fmt.Errorf("PublishMessages is %d: it must be positive", c.PublishMessages))
	}
	if c.ReachTimeout < 0 {
		faults = append(faults, fmt.Errorf("ReachTimeout is %v: it must be positive", c.ReachTimeout))
	}
	if c.SettleTimeout < 0 {
		faults = append(faults, fmt.Errorf("SettleTimeout is %v: it must be positive", c.SettleTimeout))
	}
	if c.CloseTimeout < 0 {
		faults = append(faults, fmt.Errorf("CloseTimeout is %v: it must be positive", c.CloseTimeout))
	}
	return errors.Join(faults...)
}

// SharedSubscriber is a Config.Subscriber of one subscriber for all sources and groups, such as a GoChannel. It is not
// closed by the engine: its owner does that after the run.
func SharedSubscriber(s message.Subscriber) func(group string) (message.Subscriber, error) {
	return func(string) (message.Subscriber, error) { return sharedSubscriber{s}, nil }
}

// SharedPublisher is a Config.Publisher of one publisher for all topics. It is not closed by the engine: its owner does
// that after the run.
func SharedPublisher(p message.Publisher) func() (message.Publisher, error) {
	return func() (message.Publisher, error) { return sharedPublisher{p}, nil }
}

// Logger is a Watermill logger for a Pub/Sub, of a logger that may be nil: then nothing is logged.
func Logger(logger *slog.Logger) watermill.LoggerAdapter {
	if logger == nil {
		return watermill.NopLogger{}
	}
	return watermill.NewSlogLogger(logger)
}

type sharedSubscriber struct{ message.Subscriber }

func (sharedSubscriber) Close() error { return nil }

// SubscribeInitialize passes on what embedding an interface hides.
func (s sharedSubscriber) SubscribeInitialize(topic string) error {
	if initializer, ok := s.Subscriber.(message.SubscribeInitializer); ok {
		return initializer.SubscribeInitialize(topic)
	}
	return nil
}

type sharedPublisher struct{ message.Publisher }

func (sharedPublisher) Close() error { return nil }
