package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/millrace/millrace/transport/internal/plain"
	"github.com/millrace/millrace/transport/kafka"
)

func TestPubSub(t *testing.T) {
	for _, test := range []struct {
		name       string
		partitions int
		features   tests.Features
	}{
		{"one partition", 1, tests.Features{GuaranteedOrder: true}},
		{"four partitions", 4, tests.Features{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			pubSubSuite(t, kafka.Config{Brokers: fake(t).ListenAddrs(), Partitions: test.partitions}, test.features)
		})
	}
}

func TestPubSubOnBroker(t *testing.T) {
	config := broker(t)
	config.Partitions = 1
	pubSubSuite(t, config, tests.Features{GuaranteedOrder: true})
}

func pubSubSuite(t *testing.T, config kafka.Config, features tests.Features) {
	config.AutoCreate = true
	transport := open(t, config)
	inGroup := func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		subscriber := transport.PubSub(group)
		t.Cleanup(func() { _ = subscriber.Close() }) // the suite forgets some
		return transport.PubSub(group), subscriber
	}
	features.ConsumerGroups = true
	features.Persistent = true
	features.ForceShort = testing.Short() || raceDetector // Watermill's suite gives 15 s for what takes longer then
	tests.TestPubSub(t, features, func(t *testing.T) (message.Publisher, message.Subscriber) {
		return inGroup(t, "tests-"+watermill.NewShortUUID())
	}, inGroup)
}

func TestPubSubWithoutGroupReceivesOldMessages(t *testing.T) {
	transport := open(t, kafka.Config{Brokers: fake(t).ListenAddrs(), AutoCreate: true})
	tests.TestNewSubscriberReceivesOldMessages(t,
		tests.TestContext{TestID: tests.NewTestID(), Features: tests.Features{NewSubscriberReceivesOldMessages: true}},
		func(*testing.T) (message.Publisher, message.Subscriber) {
			return transport.PubSub(""), transport.PubSub("")
		})
}

// What was acknowledged is not delivered again to the group, what was not is, and a partition goes over without two
// members working on one message.
func TestPubSubGoesOn(t *testing.T) {
	transport, _ := opened(t, 1)
	publish(t, transport, numbered(0, 10)...)
	first := transport.PubSub("g")
	messages, err := first.Subscribe(t.Context(), "events")
	must(t, err)
	for i := range 5 {
		msg := receive(t, messages)
		if string(msg.Payload) != fmt.Sprint(i) || msg.UUID != fmt.Sprintf("id-%d", i) {
			t.Fatalf("message %d is %s", i, msg.Payload)
		}
		if i == 2 {
			msg.Nack()
			msg = receive(t, messages)
			if string(msg.Payload) != "2" {
				t.Fatalf("after a refusal comes %s", msg.Payload)
			}
		}
		msg.Ack()
	}
	out := receive(t, messages) // and stays out
	must(t, first.Close())
	if out.Context().Err() == nil {
		t.Error("the context of a message outlasts its subscription")
	}
	second := transport.PubSub("g")
	defer second.Close()
	messages, err = second.Subscribe(t.Context(), "events")
	must(t, err)
	for i := 5; i < 10; i++ {
		msg := receive(t, messages)
		if string(msg.Payload) != fmt.Sprint(i) {
			t.Fatalf("message %d is %s", i, msg.Payload)
		}
		msg.Ack()
	}
	must(t, first.Close())
	if err := first.Publish("events", message.NewMessage("1", nil)); !errors.Is(err, plain.ErrClosed) {
		t.Error(err)
	}
	if _, err := first.Subscribe(context.Background(), "events"); !errors.Is(err, plain.ErrClosed) {
		t.Error(err)
	}
}

func receive(t testing.TB, messages <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case msg, ok := <-messages:
		if ok {
			return msg
		}
		t.Fatal("the channel is closed")
	case <-time.After(patience):
		t.Fatalf("no message within %s", patience)
	}
	return nil
}
