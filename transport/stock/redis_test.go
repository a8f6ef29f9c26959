package stock_test

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/transport/stock"
	"github.com/millrace/millrace/transport/transporttest"
)

func redisConfig(t testing.TB) stock.Config {
	options, err := redis.ParseURL(services.Redis(t))
	if err != nil {
		t.Fatal(err)
	}
	options.ContextTimeoutEnabled = true
	return stock.Config{
		// Each closes its client.
		Subscriber: func(group string) (message.Subscriber, error) {
			return redisstream.NewSubscriber(redisstream.SubscriberConfig{
				Client: redis.NewClient(options), ConsumerGroup: group, DisableIndefiniteInitialBlock: true,
				// What a consumer that is gone has not acknowledged is claimed after this time.
				MaxIdleTime: 500 * time.Millisecond, ClaimInterval: 100 * time.Millisecond,
			}, watermill.NopLogger{})
		},
		Publisher: func() (message.Publisher, error) {
			return redisstream.NewPublisher(redisstream.PublisherConfig{Client: redis.NewClient(options)}, watermill.NopLogger{})
		},
	}
}

func TestRedisStream(t *testing.T) {
	testPubSub(t, redisConfig, transporttest.Features{AtOnce: 1, ReturnsLater: true, Slow: true})
}
