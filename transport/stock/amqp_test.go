package stock_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/transport/stock"
	"github.com/millrace/millrace/transport/transporttest"
)

func amqpConfig(t testing.TB) stock.Config {
	address := services.RabbitMQ(t)
	return stock.Config{
		// A queue for each group, which gets all that is published from the moment that it is made.
		Subscriber: func(group string) (message.Subscriber, error) {
			config := amqp.NewDurablePubSubConfig(address, amqp.GenerateQueueNameTopicNameWithSuffix(group))
			return amqp.NewSubscriber(config, watermill.NopLogger{})
		},
		Publisher: func() (message.Publisher, error) {
			config := amqp.NewDurablePubSubConfig(address, nil)
			config.Publish.ConfirmDelivery = true
			return amqp.NewPublisher(config, watermill.NopLogger{})
		},
	}
}

func TestAMQP(t *testing.T) {
	testPubSub(t, amqpConfig, transporttest.Features{AtOnce: 1, Slow: true})
}
