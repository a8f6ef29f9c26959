package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
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
	c, err := StockConfig(text, config.Logger)
	if err != nil {
		return nil, err
	}
	return stock.New(c)
}

// StockConfig is what OpenAddress gives to stock.New, for whoever changes what an address does not say.
func StockConfig(text string, logger *slog.Logger) (stock.Config, error) {
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
		Reach: func(ctx context.Context) error {
			_, err := maxPayload(ctx, url)
			return err
		},
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
		RecordCheck: func(ctx context.Context, topic string) func(*framework.Record) error {
			return recordCheck(ctx, url, topic, logger)
		},
		Classify: classify,
	}, nil
}

// streamLimit is the server's code for a message that is larger than its stream takes.
const streamLimit natsgo.ErrorCode = 10054

// classify tells messages that are too large, for the servers or for their stream, from what passes.
func classify(err error) error {
	var answer *natsgo.APIError
	switch {
	case errors.Is(err, natsgo.ErrMaxPayload):
		return framework.Permanent(fmt.Errorf("%w: %w: %s", framework.ErrTooLarge, err, raisePayload))
	case errors.As(err, &answer) && answer.ErrorCode == streamLimit:
		return framework.Permanent(fmt.Errorf("%w: %w: raise the stream's maximum message size, or send less in one event", framework.ErrTooLarge, err))
	}
	return err
}

const raisePayload = "raise max_payload of the servers, or send less in one event"

// recordCheck goes by the servers' max_payload, as it is now.
func recordCheck(ctx context.Context, url, topic string, logger *slog.Logger) func(*framework.Record) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	limit, err := maxPayload(ctx, url)
	if err != nil { // who publishes is told
		if logger != nil {
			logger.Debug("nats: the servers' max_payload is not known", "error", err)
		}
		return nil
	}
	return func(r *framework.Record) error {
		if atMost(r) <= limit {
			return nil
		}
		if size := sizeOf(r); size > limit {
			return fmt.Errorf("nats: topic %q takes up to %d bytes, and this one has %d: %w: %s", topic, limit, size, framework.ErrTooLarge, raisePayload)
		}
		return nil
	}
}

// maxPayload asks the servers what they take at most. ctx has to end.
func maxPayload(ctx context.Context, url string) (int, error) {
	conn, err := natsgo.Connect(url, natsgo.Timeout(time.Hour), natsgo.SetCustomDialer(dialer(stock.Dialer(ctx)))) // ctx is what bounds it
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return int(conn.MaxPayload()), nil
}

type dialer func(network, address string) (net.Conn, error)

func (d dialer) Dial(network, address string) (net.Conn, error) { return d(network, address) }

// atMost is quick, and no less than sizeOf, which makes the message: its attributes, of which the id is there twice, and names
// and ends of headers come on top of the payload.
func atMost(r *framework.Record) int {
	n := len(r.Value) + 2*(len(r.ID)+len(r.Type)+len(r.Source)+len(r.Key)+len(r.Causes)+len(r.Step)) + 1024
	for name, value := range r.Metadata {
		n += len(name) + len(value) + 8
	}
	return n
}

// sizeOf is what a record counts for max_payload.
func sizeOf(r *framework.Record) int {
	var m nats.NATSMarshaler
	msg, err := m.Marshal("", framework.ToMessage(r))
	if err != nil { // it never is
		return 0
	}
	return msg.Size()
}
