package stock_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/transport/amqp"
	"github.com/millrace/millrace/transport/redis"
	"github.com/millrace/millrace/transport/sql"
	"github.com/millrace/millrace/transport/stock"
)

// Errors say where the Pub/Sub is, and what is to be done, where the configuration says where it is.
func TestWhere(t *testing.T) {
	gone := errors.New("ERR something")
	failing := func(where string, err error) stock.Config {
		return stock.Config{
			Where:      where,
			Subscriber: func(string) (message.Subscriber, error) { return nil, err },
			Publisher:  func() (message.Publisher, error) { return nil, err },
		}
	}
	for _, test := range []struct{ where, said, want string }{
		{"", "WRONGPASS", ": WRONGPASS"},
		{"x://h", "ERR something", ": at x://h: ERR something"},
		{"x://h", "WRONGPASS no", ": at x://h: WRONGPASS no: check user and password in the address, and that the server lets them in from here"},
	} {
		err := gone
		if test.said != gone.Error() {
			err = errors.New(test.said)
		}
		transport := open(t, failing(test.where, err))
		_, s := transport.Subscriber(framework.SubscriberConfig{Group: "g"})
		_, p := transport.Publisher(framework.PublisherConfig{})
		for _, got := range []error{s, p, transport.CreateTopic(t.Context(), "orders", 0)} {
			if !errors.Is(got, err) || !strings.HasSuffix(got.Error(), test.want) {
				t.Errorf("%v does not end with %q", got, test.want)
			}
		}
	}
	written := &written{err: errors.New("NOAUTH")}
	p, err := open(t, stock.Config{Where: "x://h", Publisher: stock.SharedPublisher(written)}).Publisher(framework.PublisherConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Publish(t.Context(), "sums", records(1)); !errors.Is(err, written.err) || !contains(err, "at x://h: NOAUTH: check user") {
		t.Error(err)
	}
}

// What servers say when an address names what is not there is known for what it is.
func TestWhereOnServers(t *testing.T) {
	// behind puts something else behind the host.
	behind := func(text, name string) string {
		scheme, rest, _ := strings.Cut(text, "://")
		host, _, _ := strings.Cut(rest, "/")
		return scheme + "://" + host + "/" + name
	}
	for name, test := range map[string]struct {
		config func(t *testing.T) (stock.Config, error)
		want   string
	}{
		"postgres": {func(t *testing.T) (stock.Config, error) {
			return database(t, behind(services.Postgres(t), "nowhere?sslmode=disable"))
		}, "make the database"},
		"mariadb": {func(t *testing.T) (stock.Config, error) {
			return database(t, behind(services.MariaDBAddress(t), "nowhere"))
		}, " the "}, // who may see no other database is told that the right is lacking
		"redis": {func(t *testing.T) (stock.Config, error) {
			return redis.StockConfig(behind(services.Redis(t), "9999"), nil)
		}, "name another database"},
		"rabbitmq": {func(t *testing.T) (stock.Config, error) {
			return amqp.StockConfig(behind(services.RabbitMQ(t), "nowhere"), nil)
		}, "virtual host"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := test.config(t)
			if err != nil {
				t.Fatal(err)
			}
			transport := open(t, c)
			if err = transport.CreateTopic(t.Context(), "orders", 0); err == nil { // it may wait until it is read
				var s message.Subscriber
				if s, err = transport.Subscriber(framework.SubscriberConfig{Group: "g", BatchEvents: 1, BatchBytes: 1, InFlight: 1}); err == nil {
					_, err = s.Subscribe(t.Context(), "orders")
					if closing := s.Close(); closing != nil {
						t.Error(closing)
					}
				}
			}
			if !contains(err, "at "+c.Where+": ") || !contains(err, test.want) || !strings.Contains(c.Where, "://") {
				t.Errorf("at %q: %v", c.Where, err)
			}
		})
	}
}

// database is the Config of a database that is closed at the end of the test.
func database(t *testing.T, text string) (stock.Config, error) {
	c, db, err := sql.StockConfig(text, nil)
	if err == nil {
		t.Cleanup(func() { _ = db.Close() })
	}
	return c, err
}
