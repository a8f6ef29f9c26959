package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/address"
	"github.com/millrace/millrace/transport/stock"
)

// OpenAddress makes a transport of the server of an address, redis://user:password@host:6379/0. It is an
// address.Opener. Settings: group (default: the name of the pipeline); max_idle (1m), the time after which what a
// client has not acknowledged is claimed from it, which has to be longer than a batch takes; and those of
// redis.ParseURL.
func OpenAddress(_ context.Context, text string, config address.Config) (framework.Transport, error) {
	c, err := StockConfig(text, config.Logger)
	if err != nil {
		return nil, err
	}
	return stock.New(c)
}

// StockConfig is what OpenAddress gives to stock.New, for whoever changes what an address does not say.
func StockConfig(text string, logger *slog.Logger) (stock.Config, error) {
	url, group, err := address.Take(text, "group")
	if err != nil {
		return stock.Config{}, fmt.Errorf("redis: address: %w", err)
	}
	url, maxIdle, err := address.TakeDuration(url, "max_idle", time.Minute)
	if err != nil {
		return stock.Config{}, fmt.Errorf("redis: address: %w", err)
	}
	options, err := redis.ParseURL(url)
	if err != nil { // whose text may hold the password
		return stock.Config{}, errors.New("redis: address: it must be like redis://user:password@host:6379/0, with settings of redis.ParseURL")
	}
	options.ContextTimeoutEnabled = true // or a closed subscriber leaves a goroutine until a message comes
	log := stock.Logger(logger)
	return stock.Config{
		Group: group, Where: address.Redacted(text), Reach: func(ctx context.Context) error { return reach(ctx, options) },
		// Each closes its client.
		Subscriber: func(group string) (message.Subscriber, error) {
			return redisstream.NewSubscriber(redisstream.SubscriberConfig{
				Client: redis.NewClient(options), ConsumerGroup: group, DisableIndefiniteInitialBlock: true,
				MaxIdleTime: maxIdle, ClaimInterval: min(maxIdle/5, 5*time.Second),
			}, log)
		},
		Publisher: func() (message.Publisher, error) {
			return redisstream.NewPublisher(redisstream.PublisherConfig{Client: redis.NewClient(options)}, log)
		},
	}, nil
}

func reach(ctx context.Context, options *redis.Options) error {
	once := *options
	once.MaxRetries = -1 // none: what it waits for is the first answer
	client := redis.NewClient(&once)
	return errors.Join(client.Ping(ctx).Err(), client.Close())
}
