package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	natsgo "github.com/nats-io/nats.go"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/address"
	"github.com/millrace/millrace/transport/stock"
)

// OpenAddress makes a transport of the servers of an address, nats://user:password@host:4222. It is an address.Opener.
// Settings: group (default: the name of the pipeline), and ack_wait (30s), the time after which what a client has not
// acknowledged comes again.
func OpenAddress(_ context.Context, text string, config address.Config) (framework.Transport, error) {
	c, err := PubSub(text, config.Logger)
	if err != nil {
		return nil, err
	}
	return stock.New(c)
}

// PubSub is the same as a Config of transport/stock, for what an address does not say.
func PubSub(text string, logger *slog.Logger) (stock.Config, error) {
	if err := address.Known(text, "ack_wait", "group"); err != nil {
		return stock.Config{}, fmt.Errorf("nats: address: %w", err)
	}
	url, group, err := address.Take(text, "group")
	if err != nil {
		return stock.Config{}, fmt.Errorf("nats: address: %w", err)
	}
	url, ackWait, err := address.TakeDuration(url, "ack_wait", 30*time.Second)
	if err != nil {
		return stock.Config{}, fmt.Errorf("nats: address: %w", err)
	}
	log := stock.Logger(logger)
	return stock.Config{
		Group: group, Where: address.Redacted(text),
		Subscriber: func(group string) (message.Subscriber, error) {
			return newPatient(func() (message.Subscriber, error) {
				return nats.NewSubscriber(nats.SubscriberConfig{
					URL: url, QueueGroupPrefix: group, AckWaitTimeout: ackWait, CloseTimeout: time.Second,
					JetStream: nats.JetStreamConfig{
						AutoProvision: true, DurablePrefix: group,
						SubscribeOptions: []natsgo.SubOpt{natsgo.DeliverAll(), natsgo.AckExplicit(), natsgo.AckWait(ackWait)},
					},
				}, log)
			})
		},
		Publisher: func() (message.Publisher, error) {
			return nats.NewPublisher(nats.PublisherConfig{URL: url, JetStream: nats.JetStreamConfig{AutoProvision: true}}, log)
		},
		Classify: func(err error) error {
			if errors.Is(err, natsgo.ErrMaxPayload) {
				return framework.Permanent(fmt.Errorf("%w: %w: raise max_payload of the servers, or send less in one event", framework.ErrTooLarge, err))
			}
			return err
		},
	}, nil
}
