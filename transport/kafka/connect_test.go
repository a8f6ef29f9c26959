package kafka_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/kafka"
)

func TestNoBroker(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := listener.Addr().String()
	must(t, listener.Close())
	began := time.Now()
	_, err = kafka.New(t.Context(), kafka.Config{Brokers: []string{address}, Wait: 500 * time.Millisecond})
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	for _, want := range []string{"no broker answers at " + address, "500ms", "connection refused", "Config.Wait"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: expected %q", err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := kafka.New(ctx, kafka.Config{Brokers: []string{address}}); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "Wait") {
		t.Errorf("a context that has ended: %v", err)
	}
	if _, err := kafka.New(t.Context(), kafka.Config{}); err == nil || !strings.Contains(err.Error(), "kafka: config: Brokers is empty") {
		t.Errorf("no brokers: %v", err)
	}
}

// A broker that comes later is waited for.
func TestBrokerComesLater(t *testing.T) {
	cluster := fake(t)
	refused := 0
	cluster.ControlKey(int16(kmsg.ApiVersions), func(kmsg.Request) (kmsg.Response, error, bool) {
		if refused++; refused > 3 {
			cluster.DropControl()
			return nil, nil, false
		}
		cluster.KeepControl()
		return nil, errors.New("not yet"), true
	})
	open(t, kafka.Config{Brokers: cluster.ListenAddrs()})
}

func TestAuthentication(t *testing.T) {
	token := func(context.Context) (string, error) { return "token", nil }
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		cluster := fake(t, kfake.EnableSASL(), kfake.Superuser(mechanism, "ann", "secret"))
		config := kafka.Config{Brokers: cluster.ListenAddrs(), SASL: kafka.SASL{Mechanism: strings.ToLower(mechanism), User: "ann", Password: "secret"}}
		transport := open(t, config)
		must(t, transport.CreateTopic(t.Context(), "events", 1))
		publish(t, transport, numbered(0, 1)...)
		_, messages := subscribe(t, transport, -1)
		take(t, messages, 1)

		for name, wrong := range map[string]kafka.SASL{
			"password": {Mechanism: mechanism, User: "ann", Password: "wrong"},
			"user":     {Mechanism: mechanism, User: "bob", Password: "secret"},
			"nobody":   {},
			"token":    {Mechanism: "OAUTHBEARER", Token: token},
		} {
			config.SASL, config.Wait = wrong, 300*time.Millisecond // this broker closes the connection without a word
			_, err := kafka.New(t.Context(), config)
			if err == nil || !strings.Contains(err.Error(), "SASL") || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s, wrong %s: %v", mechanism, name, err)
			}
		}
		config.SASL, config.Wait = kafka.SASL{Mechanism: mechanism, User: "ann", Password: "secret"}, time.Minute
		cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.SASLAuthenticate}, Err: kerr.SaslAuthenticationFailed, Count: -1, TopLevel: true})
		if _, err := kafka.New(t.Context(), config); err == nil || !strings.Contains(err.Error(), "check Config.SASL") { // at once
			t.Errorf("%s, refused: %v", mechanism, err)
		}
	}
}

func TestTopicErrors(t *testing.T) {
	transport, cluster := opened(t, 3)
	for name, want := range map[string]string{"": "empty", "a/b": "letters", strings.Repeat("x", 250): "250 letters", "..": "letters"} {
		if _, err := transport.Topic(t.Context(), name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := transport.CreateTopic(t.Context(), "events", 5); err == nil || !strings.Contains(err.Error(), "it has 3 partitions, not 5") {
		t.Error(err)
	}
	if err := transport.CreateTopic(t.Context(), "x", -1); err == nil || !strings.Contains(err.Error(), "-1 partitions") {
		t.Error(err)
	}
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Topic: "x", Err: kerr.TopicAuthorizationFailed})
	if err := transport.CreateTopic(t.Context(), "x", 1); !errors.Is(err, kerr.TopicAuthorizationFailed) || !strings.Contains(err.Error(), "operation Create") {
		t.Error(err)
	}
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Topic: "x", Err: kerr.InvalidReplicationFactor, Count: -1})
	short := open(t, kafka.Config{Brokers: cluster.ListenAddrs(), Wait: 500 * time.Millisecond})
	if err := short.CreateTopic(t.Context(), "x", 1); err == nil || !strings.Contains(err.Error(), "INVALID_REPLICATION_FACTOR") {
		t.Error(err)
	}
	subscriber, err := transport.Subscriber(framework.SubscriberConfig{})
	must(t, err)
	defer subscriber.Close()
	if _, err := subscriber.Subscribe(t.Context(), "nothing"); !errors.Is(err, framework.ErrNoTopic) {
		t.Error(err)
	}
	messages, err := subscriber.Subscribe(t.Context(), "events")
	must(t, err)
	if _, err := subscriber.Subscribe(t.Context(), "events"); err == nil || !strings.Contains(err.Error(), "once") {
		t.Error(err)
	}
	next(t, messages)
	auto := open(t, kafka.Config{Brokers: cluster.ListenAddrs(), AutoCreate: true, Partitions: 6})
	if info, err := auto.Topic(t.Context(), "made"); err != nil || info.Partitions != 6 {
		t.Errorf("%+v, %v", info, err)
	}
}
