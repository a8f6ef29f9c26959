package stock_test

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill/message"
	natsgo "github.com/nats-io/nats.go"

	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/transport/stock"
	"github.com/millrace/millrace/transport/transporttest"
)

func natsConfig(t testing.TB) stock.Config {
	address := services.NATS(t)
	const ackWait = 3 * time.Second
	return stock.Config{
		Subscriber: func(group string) (message.Subscriber, error) {
			return nats.NewSubscriber(nats.SubscriberConfig{
				URL: address, QueueGroupPrefix: group, AckWaitTimeout: ackWait, CloseTimeout: time.Second,
				JetStream: nats.JetStreamConfig{
					AutoProvision: true, DurablePrefix: group,
					SubscribeOptions: []natsgo.SubOpt{natsgo.DeliverAll(), natsgo.AckExplicit(), natsgo.AckWait(ackWait)},
				},
			}, watermill.NopLogger{})
		},
		Publisher: func() (message.Publisher, error) {
			return nats.NewPublisher(nats.PublisherConfig{URL: address, JetStream: nats.JetStreamConfig{AutoProvision: true}}, watermill.NopLogger{})
		},
	}
}

func TestNATS(t *testing.T) {
	testPubSub(t, natsConfig, transporttest.Features{AtOnce: 1, ReturnsLater: true, Slow: true})
}
