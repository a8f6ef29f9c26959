package stock_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/stock"
)

// Two pipelines that are told to read a topic in one group would be sent a part of the messages each: the second is
// refused, until the first has ended. In groups of their own both read it.
func TestTwoPipelinesInOneGroup(t *testing.T) {
	var groups []string
	channel := gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{})
	defer channel.Close()
	subscribers := func(group string) (message.Subscriber, error) {
		groups = append(groups, group)
		return stock.SharedSubscriber(channel)(group)
	}
	read := func(transport *stock.Transport, pipeline, topic string) (message.Subscriber, error) {
		s, err := transport.Subscriber(framework.SubscriberConfig{Group: pipeline, BatchEvents: 1, InFlight: 1})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Subscribe(t.Context(), topic)
		return s, err
	}
	closing := func(all ...message.Subscriber) {
		for _, s := range all {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	grouped := open(t, stock.Config{Group: "g", Subscriber: subscribers})
	first, err := read(grouped, "first", "orders")
	if err != nil {
		t.Fatal(err)
	}
	other, err := read(grouped, "second", "payments")
	if err != nil {
		t.Errorf("another topic: %v", err)
	}
	refused, err := read(grouped, "second", "orders")
	for _, want := range []string{`"orders"`, `"first"`, `"second"`, `group "g"`, "Config.Group", "group="} {
		if !contains(err, want) {
			t.Errorf("%v does not say %s", err, want)
		}
	}
	closing(first, refused)
	second, err := read(grouped, "second", "orders")
	if err != nil {
		t.Errorf("when the first has ended: %v", err)
	}
	closing(other, second)

	groups = nil
	apart := open(t, stock.Config{Subscriber: subscribers})
	first, err = read(apart, "first", "orders")
	if err != nil {
		t.Error(err)
	}
	second, err = read(apart, "second", "orders")
	if err != nil {
		t.Error(err)
	}
	closing(first, second)
	if len(groups) != 2 || groups[0] != "first" || groups[1] != "second" {
		t.Errorf("groups of their own: %q", groups)
	}
}
