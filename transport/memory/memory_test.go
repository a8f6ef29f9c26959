package memory_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"go.uber.org/goleak"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/memory"
	"github.com/millrace/millrace/transport/transporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, config memory.Config) *memory.Transport {
	t.Helper()
	transport, err := memory.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = transport.Close() })
	return transport
}

func TestTransport(t *testing.T) {
	transporttest.Run(t, func(t testing.TB) transporttest.Fixture {
		transport := open(t, memory.Config{})
		return transporttest.Fixture{
			Transport: transport,
			End: func(t testing.TB, topic string) {
				if err := transport.End(topic); err != nil {
					t.Fatal(err)
				}
			},
		}
	}, transporttest.Features{})
}

func TestTransportWithOnePartition(t *testing.T) {
	transporttest.Run(t, func(t testing.TB) transporttest.Fixture {
		return transporttest.Fixture{Transport: open(t, memory.Config{RetainEvents: 4000})}
	}, transporttest.Features{Partitions: 1})
}

func TestPubSub(t *testing.T) {
	for _, test := range []struct {
		name     string
		config   memory.Config
		features tests.Features
	}{
		{"one partition", memory.Config{Partitions: 1}, tests.Features{GuaranteedOrder: true}},
		{"four partitions", memory.Config{}, tests.Features{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.config.AutoCreate = true
			transport := open(t, test.config)
			inGroup := func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
				subscriber := transport.PubSub(group)
				t.Cleanup(func() { _ = subscriber.Close() }) // the suite forgets some
				return transport.PubSub(group), subscriber
			}
			test.features.ConsumerGroups = true
			test.features.Persistent = true // for as long as the transport is there
			test.features.ForceShort = testing.Short()
			tests.TestPubSub(t, test.features, func(t *testing.T) (message.Publisher, message.Subscriber) {
				return inGroup(t, "tests")
			}, inGroup)
		})
	}
}

func TestPubSubWithoutGroupReceivesOldMessages(t *testing.T) {
	transport := open(t, memory.Config{AutoCreate: true})
	tests.TestNewSubscriberReceivesOldMessages(t,
		tests.TestContext{TestID: tests.NewTestID(), Features: tests.Features{NewSubscriberReceivesOldMessages: true}},
		func(*testing.T) (message.Publisher, message.Subscriber) {
			return transport.PubSub(""), transport.PubSub("")
		})
}

func numbered(from, n int) []framework.Record {
	records := make([]framework.Record, n)
	for i := range records {
		records[i] = framework.Record{Key: "k", Value: fmt.Appendf(nil, "%d", from+i)}
	}
	return records
}

// A writer waits while a slow reader has not acknowledged what would have to go, and goes on when it has.
func TestPublishWaitsForSlowReader(t *testing.T) {
	transport := open(t, memory.Config{Partitions: 1, RetainEvents: 100, AutoCreate: true})
	subscriber, err := transport.Subscriber(framework.SubscriberConfig{Group: "slow", BatchEvents: 10, InFlight: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer subscriber.Close()
	messages, err := subscriber.Subscribe(t.Context(), "events")
	if err != nil {
		t.Fatal(err)
	}
	if err := transport.Publish("events", numbered(0, 100)...); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	publisher, _ := transport.Publisher(framework.PublisherConfig{})
	err = publisher.Publish(ctx, "events", numbered(100, 1))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "partition 0 is full") {
		t.Fatalf("publishing to a full topic: %v", err)
	}
	done := make(chan error)
	go func() { done <- publisher.Publish(t.Context(), "events", numbered(100, 400)) }()
	for next := 0; next < 500; {
		msg := <-messages
		b, _ := framework.BatchOf(msg)
		for _, r := range b.Records {
			if string(r.Value) != fmt.Sprint(next) {
				t.Fatalf("got %s, expected %d", r.Value, next)
			}
			next++
		}
		msg.Ack()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestUnreadTopicKeepsTheNewest(t *testing.T) {
	transport := open(t, memory.Config{Partitions: 1, RetainEvents: 80, AutoCreate: true})
	if err := transport.Publish("events", numbered(0, 1000)...); err != nil {
		t.Fatal(err)
	}
	kept := transport.Records("events")
	if n := len(kept); n > 80 || n < 70 || kept[n-1].Offset != 999 {
		t.Fatalf("%d records are kept, the last at %d", n, kept[n-1].Offset)
	}
	subscriber, _ := transport.Subscriber(framework.SubscriberConfig{
		Start: func(string, int) (int64, bool) { return 5, true },
	})
	defer subscriber.Close()
	if _, err := subscriber.Subscribe(t.Context(), "events"); err == nil || !strings.Contains(err.Error(), "raise Config.RetainEvents") {
		t.Fatalf("reading from a dropped position: %v", err)
	}
}

func TestRetainBytes(t *testing.T) {
	transport := open(t, memory.Config{Partitions: 1, RetainBytes: 1000, AutoCreate: true})
	for i := range 100 {
		if err := transport.Publish("events", framework.Record{Value: make([]byte, 50+i)}); err != nil {
			t.Fatal(err)
		}
	}
	total := 0
	for _, r := range transport.Records("events") {
		total += len(r.Value)
	}
	if total > 1000 {
		t.Errorf("%d bytes are kept, RetainBytes is 1000", total)
	}
	if err := transport.Publish("events", framework.Record{Value: make([]byte, 5000)}); err != nil {
		t.Fatal(err)
	}
	if n := len(transport.Records("events")); n != 1 {
		t.Errorf("%d records are kept with one that is over the bound", n)
	}
}

func TestErrors(t *testing.T) {
	if _, err := memory.New(memory.Config{Partitions: -1, RetainBytes: -1}); err == nil ||
		!strings.Contains(err.Error(), "Partitions is -1") || !strings.Contains(err.Error(), "RetainBytes is -1") {
		t.Errorf("a faulty config: %v", err)
	}
	transport := open(t, memory.Config{})
	if err := transport.Publish("nowhere", numbered(0, 1)...); !errors.Is(err, framework.ErrNoTopic) {
		t.Errorf("publishing to a topic that is not there: %v", err)
	}
	if err := transport.CreateTopic(t.Context(), "events", 1); err != nil {
		t.Fatal(err)
	}
	if err := transport.End("events"); err != nil {
		t.Fatal(err)
	}
	if err := transport.Publish("events", numbered(0, 1)...); !errors.Is(err, memory.ErrEnded) {
		t.Errorf("publishing to an ended topic: %v", err)
	}
	_ = transport.Close()
	if err := transport.Publish("events", numbered(0, 1)...); !errors.Is(err, memory.ErrClosed) {
		t.Errorf("publishing to a closed transport: %v", err)
	}
}

func TestRecordsWithoutKeySpread(t *testing.T) {
	transport := open(t, memory.Config{Partitions: 4, AutoCreate: true})
	records := make([]framework.Record, 100)
	if err := transport.Publish("unnamed", records...); err != nil {
		t.Fatal(err)
	}
	if r := transport.Records("unnamed"); r[25].Offset != 0 || r[24].Offset != 24 {
		t.Error("records without key and id are not spread evenly")
	}
	same := []framework.Record{{ID: "a"}, {ID: "a"}, {ID: "a"}}
	if err := transport.Publish("named", same...); err != nil {
		t.Fatal(err)
	}
	if r := transport.Records("named"); r[2].Offset != 2 {
		t.Error("records of one id are in several partitions")
	}
}

// A message that is refused comes again, before the next one.
func TestPubSubRedelivers(t *testing.T) {
	face := open(t, memory.Config{Partitions: 1, AutoCreate: true}).PubSub("g")
	defer face.Close()
	messages, err := face.Subscribe(t.Context(), "made by its name")
	if err != nil {
		t.Fatal(err)
	}
	for _, payload := range []string{"1", "2"} {
		if err := face.Publish("made by its name", message.NewMessage(payload, []byte(payload))); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []string{"1", "1", "1", "2"} {
		msg := <-messages
		if string(msg.Payload) != want {
			t.Fatalf("delivery %d is %s, expected %s", i, msg.Payload, want)
		}
		if i < 2 {
			msg.Nack()
		} else {
			msg.Ack()
		}
	}
	bad := message.NewMessage("x", nil)
	bad.Metadata.Set(framework.MetadataTime, "yesterday")
	if err := face.Publish("made by its name", bad); err == nil {
		t.Error("a message with an unreadable time was taken")
	}
}

// A group that is gone holds nothing back once it is forgotten.
func TestForget(t *testing.T) {
	transport := open(t, memory.Config{Partitions: 1, RetainEvents: 10, AutoCreate: true})
	subscriber, _ := transport.Subscriber(framework.SubscriberConfig{Group: "gone"})
	if _, err := subscriber.Subscribe(t.Context(), "events"); err != nil {
		t.Fatal(err)
	}
	if err := subscriber.Close(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- transport.Publish("events", numbered(0, 20)...) }()
	for len(transport.Records("events")) < 10 {
		runtime.Gosched()
	}
	transport.Forget("gone")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func ExampleTransport() {
	transport, err := memory.New(memory.Config{Partitions: 1, AutoCreate: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer transport.Close()
	_ = transport.Publish("orders", framework.Record{ID: "o1", Value: []byte("first")}, framework.Record{ID: "o2", Value: []byte("second")})
	_ = transport.End("orders")
	for _, r := range transport.Records("orders") {
		fmt.Println(r.Offset, r.ID, string(r.Value))
	}
	// Output:
	// 0 o1 first
	// 1 o2 second
}

// Read gives what a partition keeps, from an offset or the oldest on, over its chunks, and stops where fn does.
func TestRead(t *testing.T) {
	transport := open(t, memory.Config{RetainEvents: 100, Partitions: 1, AutoCreate: true})
	for i := range 250 {
		if err := transport.Publish("t", framework.Record{ID: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	read := func(from int64, most int) (int64, error) {
		got = nil
		return transport.Read(t.Context(), "t", 0, from, func(r framework.Record) error {
			if len(got) == most {
				return errors.New("enough")
			}
			got = append(got, r.ID)
			return nil
		})
	}
	next, err := read(0, 1000)
	if err != nil || next != 250 || len(got) == 0 || len(got) > 100 || got[len(got)-1] != "249" || got[0] != fmt.Sprint(250-len(got)) {
		t.Errorf("read %d to %d, %v: %q", len(got), next, err, got)
	}
	if next, err := read(240, 3); err == nil || next != 243 || len(got) != 3 || got[0] != "240" {
		t.Errorf("read %q to %d, %v", got, next, err)
	}
	if next, err := read(250, 3); err != nil || next != 250 || got != nil {
		t.Errorf("at the end: read %q to %d, %v", got, next, err)
	}
	if _, err := transport.Read(t.Context(), "t", 1, 0, nil); err == nil {
		t.Error("a partition that is not there was read")
	}
}
