package stock_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv"
	"github.com/millrace/millrace/transport/amqp"
	"github.com/millrace/millrace/transport/nats"
	"github.com/millrace/millrace/transport/redis"
	"github.com/millrace/millrace/transport/stock"
)

// over are transports of all schemes at an address.
func over(t *testing.T, address string, timeout time.Duration) map[string]*stock.Transport {
	t.Helper()
	all := map[string]*stock.Transport{}
	for scheme, pubSub := range map[string]func(text string) (stock.Config, error){
		"postgres": func(text string) (stock.Config, error) { return database(t, text+"/db") },
		"mysql":    func(text string) (stock.Config, error) { return database(t, text+"/db") },
		"nats":     func(text string) (stock.Config, error) { return nats.StockConfig(text, nil) },
		"redis":    func(text string) (stock.Config, error) { return redis.StockConfig(text, nil) },
		"amqp":     func(text string) (stock.Config, error) { return amqp.StockConfig(text, nil) },
	} {
		config := must(t)(pubSub(scheme + "://u:secret@" + address))
		config.ReachTimeout = timeout
		all[scheme] = open(t, config)
	}
	return all
}

// A server of another kind, or one that says nothing, is an error that says where and what to do, and not waited for.
func TestServerOfAnotherKind(t *testing.T) {
	for _, says := range []string{"", "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"} {
		address, _ := testenv.Stranger(t, says)
		for scheme, transport := range over(t, address, 300*time.Millisecond) {
			t.Run(scheme+" "+says[:min(4, len(says))], func(t *testing.T) {
				_, topic := transport.Topic(t.Context(), "orders")
				for _, err := range []error{topic, transport.CreateTopic(t.Context(), "orders", 0)} {
					if !contains(err, scheme+"://") || !contains(err, address) || contains(err, "secret") ||
						says == "" && !contains(err, "there is no answer within 300ms: check the address") {
						t.Error(err)
					}
				}
			})
		}
	}
}

// Whoever waits for a server that says nothing is let go at once.
func TestServerThatSaysNothing(t *testing.T) {
	for scheme := range over(t, "127.0.0.1:1", time.Hour) {
		t.Run(scheme, func(t *testing.T) {
			address, accepted := testenv.Stranger(t, "")
			transport := over(t, address, time.Hour)[scheme]
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- transport.CreateTopic(ctx, "orders", 0) }()
			<-accepted
			cancel()
			select {
			case err := <-done:
				if !errors.Is(err, context.Canceled) || !contains(err, address) {
					t.Error(err)
				}
			case <-time.After(time.Minute):
				t.Fatal("it still waits")
			}
		})
	}
}

// Whether the Pub/Sub answers is asked until it has, and no more: by reading, making topics and publishing.
func TestReachIsAskedUntilItAnswers(t *testing.T) {
	away := errors.New("away")
	asked, answer := 0, away
	written := &written{}
	transport := open(t, stock.Config{
		Where: "x://h", Publisher: stock.SharedPublisher(written), Subscriber: stock.SharedSubscriber(newScripted()),
		Reach: func(context.Context) error { asked++; return answer },
	})
	publisher, err := transport.Publisher(framework.PublisherConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for i, use := range []func() error{
		func() error { _, err := transport.Topic(t.Context(), "orders"); return err },
		func() error { return transport.CreateTopic(t.Context(), "orders", 0) },
		func() error { return publisher.Publish(t.Context(), "orders", records(1)) },
	} {
		if err := use(); !errors.Is(err, away) || asked != i+1 || !strings.Contains(err.Error(), "at x://h: away") {
			t.Errorf("asked %d times: %v", asked, err)
		}
	}
	answer = nil
	for range 3 {
		if err := publisher.Publish(t.Context(), "orders", records(1)); err != nil || asked != 4 {
			t.Errorf("asked %d times: %v", asked, err)
		}
	}
	if len(written.calls) != 3 {
		t.Errorf("%d calls reached the publisher", len(written.calls))
	}
}
