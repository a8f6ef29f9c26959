package stock_test

import (
	"errors"
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/transport/nats"
	"github.com/millrace/millrace/transport/stock"
	"github.com/millrace/millrace/transport/transporttest"
)

func TestNATS(t *testing.T) {
	testPubSub(t, func(t testing.TB) stock.Config {
		return must(t)(nats.StockConfig(services.NATS(t)+"?ack_wait=3s", nil))
	}, transporttest.Features{AtOnce: 1, ReturnsLater: true, Slow: true})
}

// A message over the servers' bound is told as one that is too large: to the byte before it is sent, so that its event
// fails, and when it is sent, so that the engine shortens a dead letter.
func TestNATSMaxPayload(t *testing.T) {
	transport, publisher := natsPublisher(t)
	topic := fmt.Sprintf("large-%d", time.Now().UnixNano())
	check := transport.RecordCheck(t.Context(), topic)
	record := func(value int) *framework.Record {
		return &framework.Record{ID: "r", Type: "t", Key: "k", Time: time.Unix(1_700_000_000, 0), Causes: "a b",
			Metadata: map[string]string{"trace": "00-1"}, Value: make([]byte, value)}
	}
	fits := sort.Search(4<<20, func(n int) bool { return check(record(n)) != nil }) - 1
	if err := check(record(fits + 1)); !errors.Is(err, framework.ErrTooLarge) || !strings.Contains(err.Error(), "max_payload") || fits < 1000 {
		t.Errorf("%d bytes: %v", fits+1, err)
	}
	if err := publisher.Publish(t.Context(), topic, []framework.Record{*record(fits)}); err != nil {
		t.Errorf("%d bytes: %v", fits, err)
	}
	err := publisher.Publish(t.Context(), topic, []framework.Record{*record(fits + 1)})
	if !errors.Is(err, framework.ErrTooLarge) || framework.ClassOf(err) != framework.ClassPermanent {
		t.Errorf("%d bytes: %v", fits+1, err)
	}
}

// What is more than its stream takes is known when it is sent only; it is too large, too.
func TestNATSMaxMsgSize(t *testing.T) {
	_, publisher := natsPublisher(t)
	topic := fmt.Sprintf("narrow-%d", time.Now().UnixNano())
	conn, err := natsgo.Connect(services.NATS(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := conn.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.AddStream(&natsgo.StreamConfig{Name: topic, Subjects: []string{topic}, MaxMsgSize: 1000}); err != nil {
		t.Fatal(err)
	}
	for value, large := range map[int]bool{100: false, 2000: true} {
		err := publisher.Publish(t.Context(), topic, []framework.Record{{ID: "r", Value: make([]byte, value)}})
		if errors.Is(err, framework.ErrTooLarge) != large || large && framework.ClassOf(err) != framework.ClassPermanent || !large && err != nil {
			t.Errorf("%d bytes: %v", value, err)
		}
	}
}

func natsPublisher(t *testing.T) (*stock.Transport, framework.Publisher) {
	t.Helper()
	transport, err := stock.New(must(t)(nats.StockConfig(services.NATS(t), nil)))
	if err != nil {
		t.Fatal(err)
	}
	publisher, err := transport.Publisher(framework.PublisherConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = publisher.Close() })
	return transport, publisher
}
