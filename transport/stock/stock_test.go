package stock_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/embedded"
	"github.com/millrace/millrace/transport/stock"
)

func contains(err error, text string) bool { return err != nil && strings.Contains(err.Error(), text) }

// runnerOver runs a pipeline from "orders" to a topic of the store.
func runnerOver(t *testing.T, factory func(string) (message.Subscriber, error)) *framework.Runner {
	t.Helper()
	store, err := microstore.Open(microstore.Config{Dir: t.TempDir(), GCInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	topics, err := embedded.New(store, embedded.Config{})
	if err != nil {
		t.Fatal(err)
	}
	p := framework.NewPipeline("p")
	framework.To(framework.From[order](p, "orders"), "out")
	runner, err := framework.New(framework.Config{
		Store: store, Transport: topics,
		Routes: map[string]framework.Transport{"orders": open(t, stock.Config{Subscriber: factory})},
	}, p)
	if err != nil {
		t.Fatal(err)
	}
	return runner
}

func TestConfig(t *testing.T) {
	_, err := stock.New(stock.Config{PublishMessages: -1, SettleTimeout: -1, CloseTimeout: -1})
	for _, want := range []string{"stock: config", "neither Subscriber nor Publisher", "PublishMessages is -1", "SettleTimeout is", "CloseTimeout is"} {
		if !contains(err, want) {
			t.Errorf("%v does not say %s", err, want)
		}
	}
	reads := open(t, stock.Config{Subscriber: func(string) (message.Subscriber, error) { return nil, nil }})
	if _, err := reads.Publisher(framework.PublisherConfig{}); !contains(err, "Config.Publisher") {
		t.Errorf("publisher without one in the config: %v", err)
	}
	if _, err := reads.Subscriber(framework.SubscriberConfig{Group: "g"}); !contains(err, `group "g": Config.Subscriber gave none`) {
		t.Errorf("no subscriber and no error: %v", err)
	}
	writes := open(t, stock.Config{Publisher: func() (message.Publisher, error) { return nil, nil }})
	if _, err := writes.Subscriber(framework.SubscriberConfig{Group: "g"}); !contains(err, "Config.Subscriber") {
		t.Errorf("subscriber without one in the config: %v", err)
	}
	if _, err := writes.Publisher(framework.PublisherConfig{}); !contains(err, "Config.Publisher gave none") {
		t.Errorf("no publisher and no error: %v", err)
	}
	if _, err := reads.Topic(t.Context(), ""); !errors.Is(err, framework.ErrNoTopic) {
		t.Errorf("a topic without a name: %v", err)
	}
}

// initialised is a subscriber that can make topics.
type initialised struct {
	*scripted
	made []string
	err  error
}

func (s *initialised) SubscribeInitialize(topic string) error {
	s.made = append(s.made, topic)
	return s.err
}

func TestCreateTopic(t *testing.T) {
	var groups []string
	s := &initialised{scripted: newScripted()}
	for _, shared := range []bool{false, true} {
		config := stock.Config{Group: "g", Subscriber: func(group string) (message.Subscriber, error) {
			groups = append(groups, group)
			return s, nil
		}}
		if shared {
			config.Subscriber = stock.SharedSubscriber(s)
		}
		if err := open(t, config).CreateTopic(t.Context(), "orders", 1); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(s.made, []string{"orders", "orders"}) || !slices.Equal(groups, []string{"g"}) {
		t.Errorf("made %v for %v", s.made, groups)
	}
	select {
	case <-s.closed:
	default:
		t.Error("the subscriber was not closed")
	}
	s.err = errors.New("not allowed")
	transport := open(t, stock.Config{Subscriber: stock.SharedSubscriber(s)})
	if err := transport.CreateTopic(t.Context(), "orders", 0); !errors.Is(err, s.err) || !contains(err, `create topic "orders"`) {
		t.Errorf("a topic that cannot be made: %v", err)
	}
	if err := transport.CreateTopic(t.Context(), "orders", 4); !contains(err, "4 partitions") {
		t.Errorf("a topic of four partitions: %v", err)
	}
	plain := open(t, stock.Config{Subscriber: stock.SharedSubscriber(newScripted())})
	if err := plain.CreateTopic(t.Context(), "orders", 1); err != nil {
		t.Errorf("a Pub/Sub that makes topics by itself: %v", err)
	}
}

// written is a publisher that keeps what it is given.
type written struct {
	calls [][]*message.Message
	err   error
	// Publish says that it has begun, and waits, where these are set.
	entered, hang chan struct{}
}

func (w *written) Publish(_ string, messages ...*message.Message) error {
	if w.hang != nil {
		close(w.entered)
		<-w.hang
	}
	w.calls = append(w.calls, messages)
	return w.err
}

func (w *written) Close() error { return nil }

func records(n int) (all []framework.Record) {
	for i := range n {
		all = append(all, framework.Record{ID: fmt.Sprint(i), Key: "k", Value: []byte("v")})
	}
	return all
}

func TestPublisher(t *testing.T) {
	w := &written{}
	lasting := errors.New("too large")
	p, err := open(t, stock.Config{
		Publisher: stock.SharedPublisher(w), PublishMessages: 10,
		Classify: func(err error) error {
			if errors.Is(err, lasting) {
				return framework.Fatal(err)
			}
			return err
		},
	}).Publisher(framework.PublisherConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Publish(t.Context(), "sums", records(25)); err != nil {
		t.Fatal(err)
	}
	if len(w.calls) != 3 || len(w.calls[0]) != 10 || len(w.calls[2]) != 5 || w.calls[2][4].UUID != "24" ||
		w.calls[2][4].Metadata[framework.MetadataKey] != "k" {
		t.Errorf("%d calls: %v", len(w.calls), w.calls)
	}
	w.err = lasting
	if err := p.Publish(t.Context(), "sums", records(25)); !errors.Is(err, lasting) || !contains(err, `publish to "sums"`) ||
		framework.ClassOf(err) != framework.ClassFatal {
		t.Errorf("an error that does not pass: %v", err)
	}
	if len(w.calls) != 4 {
		t.Error("went on after an error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Publish(ctx, "sums", records(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	if err := errors.Join(p.Close(), p.Close()); err != nil {
		t.Error(err)
	}
	if err := p.Publish(t.Context(), "sums", records(1)); !errors.Is(err, stock.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestPublisherThatHangs(t *testing.T) {
	w := &written{entered: make(chan struct{}), hang: make(chan struct{})}
	p, err := open(t, stock.Config{Publisher: stock.SharedPublisher(w), CloseTimeout: time.Millisecond}).Publisher(framework.PublisherConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- p.Publish(t.Context(), "sums", records(1)) }()
	<-w.entered
	if err := p.Close(); !contains(err, "did not end within") {
		t.Errorf("closing while Publish hangs: %v", err)
	}
	close(w.hang)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
