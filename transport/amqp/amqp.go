package amqp

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/rabbitmq/amqp091-go"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/address"
	"github.com/millrace/millrace/transport/stock"
)

// OpenAddress makes a transport of the broker of an address, amqp://user:password@host:5672/. It is an address.Opener.
// Settings: group (default: the name of the pipeline), and those of RabbitMQ's URIs that amqp091.ParseURI reads.
func OpenAddress(_ context.Context, text string, config address.Config) (framework.Transport, error) {
	c, err := StockConfig(text, config.Logger)
	if err != nil {
		return nil, err
	}
	return stock.New(c)
}

// settings are ours and those that the client reads; it passes over others.
var settings = []string{"auth_mechanism", "cacertfile", "certfile", "channel_max", "connection_timeout", "group", "heartbeat",
	"keyfile", "server_name_indication"}

// StockConfig is what OpenAddress gives to stock.New, for whoever changes what an address does not say.
func StockConfig(text string, logger *slog.Logger) (stock.Config, error) {
	if err := address.Known(text, settings...); err != nil {
		return stock.Config{}, fmt.Errorf("amqp: address: %w", err)
	}
	uri, group, err := address.Take(text, "group")
	if err != nil {
		return stock.Config{}, fmt.Errorf("amqp: address: %w", err)
	}
	log := stock.Logger(logger)
	return stock.Config{
		Group: group, Where: address.Redacted(text), Reach: func(ctx context.Context) error { return reach(ctx, uri) },
		Subscriber: func(group string) (message.Subscriber, error) {
			return amqp.NewSubscriber(amqp.NewDurablePubSubConfig(uri, amqp.GenerateQueueNameTopicNameWithSuffix(group)), log)
		},
		Publisher: func() (message.Publisher, error) {
			config := amqp.NewDurablePubSubConfig(uri, nil)
			config.Publish.ConfirmDelivery = true // or a broker that goes away takes messages with it
			return amqp.NewPublisher(config, log)
		},
	}, nil
}

func reach(ctx context.Context, uri string) error {
	conn, err := amqp091.DialConfig(uri, amqp091.Config{Dial: stock.Dialer(ctx)})
	if err != nil {
		return err
	}
	return conn.Close()
}
