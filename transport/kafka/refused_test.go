package kafka_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/kafka"
)

func TestLimitIsLowered(t *testing.T) {
	limitIsLowered(t, kafka.Config{Brokers: fake(t).ListenAddrs()}, "")
}

func TestLimitIsLoweredOnBroker(t *testing.T) { limitIsLowered(t, broker(t), own(t)) }

// When a topic takes less than it did at the start, what is too large for it by then is a dead letter with all its bytes,
// and all else is sent: while the pipeline runs, and of what waits in its outbox for the next start, there in order.
func limitIsLowered(t *testing.T, config kafka.Config, prefix string) {
	const waiting, limit = 300, "4000"
	transport := &held{Transport: open(t, config)}
	in, out := prefix+"lowered-in", prefix+"lowered-out"
	pipeline := passing(prefix+"lowered", in, out)
	for _, topic := range []string{in, out, pipeline.DeadLetters()} {
		must(t, transport.CreateTopic(t.Context(), topic, 1))
	}
	publisher, err := transport.Transport.Publisher(frameworkPublisher)
	must(t, err)
	feed := func(events ...framework.Record) { must(t, publisher.Publish(t.Context(), in, events)) }
	store, err := microstore.Open(microstore.Config{Dir: t.TempDir()})
	must(t, err)
	t.Cleanup(func() { must(t, store.Close()) })
	committed := make(chan int, 1<<16)
	begin := func() (end func()) {
		runner, err := framework.New(framework.Config{Store: store, Transport: transport, StopTimeout: time.Second, Logger: slog.New(slog.DiscardHandler),
			Hooks: []framework.Hook{onCommit(func(i framework.CommitInfo) { committed <- i.Events })}}, passing(prefix+"lowered", in, out))
		must(t, err)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- runner.Run(ctx) }()
		return func() {
			stop()
			if err := <-ended; err != nil && !errors.Is(err, framework.ErrStopTimeout) {
				t.Error(err)
			}
		}
	}
	sent, dead := readTopic(t, transport.Transport, out), readTopic(t, transport.Transport, pipeline.DeadLetters())
	var got []string
	letters := map[string]bool{}
	await := func(n int) {
		for len(got) < n {
			records, _ := take(t, sent, 1)
			for i := range records {
				if id := records[i].ID; id != "" && !slices.Contains(got, id) { // else it is a probe, or comes again
					got = append(got, id)
				}
			}
		}
	}
	awaitLetter := func(of framework.Record) {
		t.Helper()
		var records []framework.Record
		var f framework.Fault
		for f.Event.ID == "" || letters[f.Event.ID] { // one may come again
			records, _ = take(t, dead, 1)
			must(t, json.Unmarshal(records[0].Value, &f))
		}
		letters[f.Event.ID] = true
		bytes, err := f.Event.Bytes()
		if !f.Refused || f.Topic != out || f.Event.ID != of.ID || err != nil || string(bytes) != string(of.Value) {
			t.Errorf("the dead letter: %.600s, %v", records[0].Value, err)
		}
	}

	end := begin()
	feed(noisy("first", 20))
	await(1) // the pipeline has asked what the topic takes
	lower(t, config, out, limit)
	large := noisy("large", 12_000)
	feed(large, noisy("behind", 20))
	awaitLetter(large)
	await(2)

	transport.away.Store(true)
	var events []framework.Record
	want := []string{"first", "behind"}
	large.ID = "large-2"
	for i := range waiting {
		events = append(events, noisy(fmt.Sprint("small-", i), 200))
		want = append(want, events[len(events)-1].ID)
		if i == waiting/2 {
			events = append(events, large)
		}
	}
	for len(committed) > 0 {
		<-committed
	}
	feed(events...)
	for n := 0; n < len(events); {
		n += <-committed
	}
	end()
	transport.away.Store(false)
	transport.Transport = open(t, config) // another process
	end = begin()
	awaitLetter(large)
	await(len(want))
	if !slices.Equal(got, want) {
		t.Errorf("what is sent is in another order: %q", got)
	}
	end()
}

type onCommit func(framework.CommitInfo)

func (f onCommit) OnCommit(i framework.CommitInfo) { f(i) }

// noisy is an event of so many bytes that do not pack.
func noisy(id string, bytes int) framework.Record {
	noise := make([]byte, bytes/2)
	_, _ = rand.Read(noise)
	return framework.Record{ID: id, Key: "k", Time: time.Unix(1_700_000_000, 0),
		Value: fmt.Appendf(nil, `{"Amount":1,"Customer":%q}`, hex.EncodeToString(noise))}
}

// held is a transport to which nothing can be sent while it is away.
type held struct {
	*kafka.Transport
	away atomic.Bool
}

func (h *held) Publisher(c framework.PublisherConfig) (framework.Publisher, error) {
	p, err := h.Transport.Publisher(c)
	return heldPublisher{p, h}, err
}

type heldPublisher struct {
	framework.Publisher
	held *held
}

func (p heldPublisher) Publish(ctx context.Context, topic string, records []framework.Record) error {
	if p.held.away.Load() {
		return errors.New("it is away")
	}
	return p.Publisher.Publish(ctx, topic, records)
}

// lower sets what a topic takes, and waits until its broker goes by that.
func lower(t *testing.T, config kafka.Config, topic, limit string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(config.Brokers...), kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(kgo.NoCompression()))
	must(t, err)
	defer client.Close()
	_, err = kadm.NewClient(client).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: "max.message.bytes", Value: &limit}}, topic)
	must(t, err)
	deadline := time.Now().Add(time.Minute)
	for {
		err := client.ProduceSync(t.Context(), &kgo.Record{Value: make([]byte, 8000)}).FirstErr()
		if errors.Is(err, kerr.MessageTooLarge) {
			return
		}
		must(t, err)
		if time.Now().After(deadline) {
			t.Fatalf("the topic still takes 8000 bytes, with max.message.bytes=%s", limit)
		}
	}
}

// A batch that brokers refuse for its size, of which no record is too large by itself, makes none of them a dead letter: the
// error says what to do. Dead letters count as too large, since they can be cut.
func TestBatchIsRefused(t *testing.T) {
	for _, typ := range []string{"order", framework.FaultType} {
		transport, cluster := opened(t, 1)
		cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.MessageTooLarge, Count: -1})
		records := numbered(0, 3)
		for i := range records {
			records[i].Type = typ
		}
		publisher, err := transport.Publisher(frameworkPublisher)
		must(t, err)
		err = publisher.Publish(t.Context(), "events", records)
		dead := typ == framework.FaultType
		if errors.Is(err, framework.ErrTooLarge) != dead || framework.ClassOf(err) != framework.ClassPermanent ||
			!dead && !strings.Contains(err.Error(), "Start again") {
			t.Errorf("%s: %v", typ, err)
		}
	}
}
