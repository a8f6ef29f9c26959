package kafka_test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/kafka"
)

// book is a handler that keeps all that is logged.
type book struct {
	mu      sync.Mutex
	records []slog.Record
	changed chan struct{}
}

func newBook() *book { return &book{changed: make(chan struct{})} }

func (b *book) logger() *slog.Logger { return slog.New(b) }

func (b *book) Enabled(context.Context, slog.Level) bool { return true }
func (b *book) WithAttrs([]slog.Attr) slog.Handler       { return b }
func (b *book) WithGroup(string) slog.Handler            { return b }

func (b *book) Handle(_ context.Context, r slog.Record) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records = append(b.records, r)
	close(b.changed)
	b.changed = make(chan struct{})
	return nil
}

// count is how many lines of a level begin with a text.
func (b *book) count(level slog.Level, begin string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.records {
		if r.Level == level && strings.HasPrefix(r.Message, begin) {
			n++
		}
	}
	return n
}

// await waits until something is logged.
func (b *book) await(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		if is() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// A transport without a logger of its own tells of brokers that are away to the log of who reads: at once, and then not at
// every attempt.
func TestOutageIsTold(t *testing.T) {
	t.Parallel() // it waits
	began := time.Now()
	transport, cluster := opened(t, 1)
	log := newBook()
	subscriber, err := transport.Subscriber(framework.SubscriberConfig{Group: "g", BatchEvents: 100, InFlight: 2, Logger: log.logger()})
	must(t, err)
	t.Cleanup(func() { must(t, subscriber.Close()) })
	messages, err := subscriber.Subscribe(t.Context(), "events")
	must(t, err)
	publish(t, transport, numbered(0, 1)...)
	take(t, messages, 1)

	cluster.Close()
	const attempts, client = 5, "kafka client: unable to open connection"
	log.await(t, "the client has tried often", func() bool { return log.count(slog.LevelDebug, client) >= attempts })
	warnings, most := log.count(slog.LevelWarn, "kafka client: "), 1+int(time.Since(began)/(10*time.Second))
	if warnings == 0 || warnings > most {
		t.Errorf("%d warnings of the client, want 1 to %d", warnings, most)
	}
}

// What a member of a group tries again is told so too.
func TestOutageOfAGroupIsTold(t *testing.T) {
	t.Parallel() // it waits
	began := time.Now()
	log := newBook()
	transport, cluster := opened(t, 1, func(c *kafka.Config) { c.Logger = log.logger() })
	l := newLedger(t, []string{"events"})
	l.join("one", transport)
	l.await("it has the partition", func() bool { return l.called("one assign") })
	cluster.Close()
	const again = "kafka: reading is tried again"
	log.await(t, "it has tried often", func() bool { return log.count(slog.LevelDebug, again) >= 2 })
	warnings, most := log.count(slog.LevelWarn, again), 1+int(time.Since(began)/(10*time.Second))
	if warnings == 0 || warnings > most {
		t.Errorf("%d warnings, want 1 to %d", warnings, most)
	}
}

// New says that it waits, once.
func TestWaitingIsTold(t *testing.T) {
	t.Parallel() // it waits
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := listener.Addr().String()
	must(t, listener.Close())
	log := newBook()
	const wait = 2 * time.Second
	began := time.Now()
	_, err = kafka.New(t.Context(), kafka.Config{Brokers: []string{address}, Wait: wait, Logger: log.logger()})
	if err == nil {
		t.Fatal("a broker answers")
	}
	if n := log.count(slog.LevelWarn, "kafka: no broker answers yet"); n != 1 {
		t.Errorf("told %d times that it waits", n)
	}
	if n, most := log.count(slog.LevelWarn, "kafka client: "), 1+int(time.Since(began)/(10*time.Second)); n == 0 || n > most {
		t.Errorf("%d warnings of the client, want 1 to %d", n, most)
	}
}

// What a transport tells is heard by its own logger or, without one, by that of who reads; not by one that drops it.
func TestWhoseLogger(t *testing.T) {
	for _, has := range []bool{true, false} {
		own, reader := newBook(), newBook()
		cluster := fake(t)
		config := kafka.Config{Brokers: cluster.ListenAddrs()}
		heard, other := reader, own
		if has {
			config.Logger, heard, other = own.logger(), own, reader
		}
		transport := open(t, config)
		must(t, transport.CreateTopic(t.Context(), "events", 1))
		publish(t, transport, numbered(0, 20)...)
		must(t, cluster.DeleteRecords("events", 0, 10))
		subscriber, err := transport.Subscriber(framework.SubscriberConfig{BatchEvents: 100, InFlight: 2, Logger: reader.logger()})
		must(t, err)
		_, err = transport.Publisher(framework.PublisherConfig{Logger: slog.New(slog.DiscardHandler)})
		must(t, err)
		messages, err := subscriber.Subscribe(t.Context(), "events")
		must(t, err)
		take(t, messages, 10)
		must(t, subscriber.Close())
		const told = "kafka: the oldest records of a topic are gone"
		if n, m := heard.count(slog.LevelWarn, told), other.count(slog.LevelWarn, told); n != 1 || m != 0 {
			t.Errorf("with a logger of its own %v: told %d times, and %d times to the other one", has, n, m)
		}
	}
}
