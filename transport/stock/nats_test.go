package stock_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/transport/nats"
	"github.com/millrace/millrace/transport/stock"
	"github.com/millrace/millrace/transport/transporttest"
)

func TestNATS(t *testing.T) {
	testPubSub(t, func(t testing.TB) stock.Config {
		return must(t)(nats.PubSub(services.NATS(t)+"?ack_wait=3s", nil))
	}, transporttest.Features{AtOnce: 1, ReturnsLater: true, Slow: true})
}

// A message over the servers' bound is told as one that is too large, so that the engine shortens a dead letter.
func TestNATSMaxPayload(t *testing.T) {
	transport, err := stock.New(must(t)(nats.PubSub(services.NATS(t), nil)))
	if err != nil {
		t.Fatal(err)
	}
	topic := fmt.Sprintf("large-%d", time.Now().UnixNano())
	publisher, err := transport.Publisher(framework.PublisherConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = publisher.Close() }()
	err = publisher.Publish(t.Context(), topic, []framework.Record{{ID: "large", Value: make([]byte, 4<<20)}})
	if !errors.Is(err, framework.ErrTooLarge) || framework.ClassOf(err) != framework.ClassPermanent {
		t.Errorf("4 MiB: %v", err)
	}
	if err := publisher.Publish(t.Context(), topic, []framework.Record{{ID: "small", Value: []byte("{}")}}); err != nil {
		t.Error(err)
	}
}
