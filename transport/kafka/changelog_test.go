package kafka_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/transport/kafka"
)

// What a fold has counted is there in a process that never had the partitions, though the topic keeps nothing of what
// was counted: it is in the changelog. On a fake broker and on a real one.
func TestChangelog(t *testing.T) {
	changelogOver(t, kafka.Config{Brokers: fake(t).ListenAddrs()}, "")
}

func TestChangelogOnBroker(t *testing.T) { changelogOver(t, broker(t), own(t)) }

func changelogOver(t *testing.T, config kafka.Config, prefix string) {
	const partitions = 2
	transport := open(t, config)
	for _, topic := range []string{"visits", "counts"} {
		must(t, transport.CreateTopic(t.Context(), prefix+topic, partitions))
	}
	c := newCounts(t, transport, prefix)
	one, two := t.TempDir(), t.TempDir()
	stop, _ := c.run(config, one)
	for range 3 {
		c.visit()
	}
	c.await()
	stop()
	c.deleteVisits(partitions)

	stop, restored := c.run(config, two)
	c.visit()
	c.await()
	if len(restored()) != partitions {
		t.Errorf("%v were restored, want %d tasks", restored(), partitions)
	}
	c.deleteVisits(partitions)
	stop()

	stop, restored = c.run(config, one) // with the state of before
	c.visit()
	c.await()
	if len(restored()) != partitions {
		t.Errorf("%v were restored, want %d tasks", restored(), partitions)
	}
	stop()
}

// A partition of a changelog that has no leader holds up its task alone.
func TestChangelogWithoutLeader(t *testing.T) {
	t.Parallel()
	cluster := fake(t)
	config := kafka.Config{Brokers: cluster.ListenAddrs()}
	transport := open(t, config)
	for _, topic := range []string{"visits", "counts"} {
		must(t, transport.CreateTopic(t.Context(), topic, 2))
	}
	c := newCounts(t, transport, "")
	stop, _ := c.run(config, t.TempDir())
	c.visit()
	c.await()
	stop()
	none := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata, kmsg.ListOffsets, kmsg.Fetch, kmsg.Produce}, Topic: "visits.visits.changelog",
		Partitions: []int32{0}, Err: kerr.LeaderNotAvailable, Count: -1})
	_, restored := c.run(config, t.TempDir())
	c.visit()
	others := 0
	for i := range visitors {
		others += framework.Partition(fmt.Sprint("v", i), 2)
	}
	c.awaitSome(others)
	if none.Hits() == 0 || len(restored()) != 1 {
		t.Errorf("the leader was missed %d times, and %v were restored", none.Hits(), restored())
	}
	none.Remove()
	c.visit()
	c.await()
}

type visit struct{ Who string }

type visits struct {
	Who   string
	Count int
}

// countsOf writes visits and reads how many each visitor has made.
type countsOf struct {
	t         *testing.T
	transport *kafka.Transport
	prefix    string
	publisher framework.Publisher
	messages  <-chan *message.Message
	rounds    int
}

const visitors = 50

func newCounts(t *testing.T, transport *kafka.Transport, prefix string) *countsOf {
	c := &countsOf{t: t, transport: transport, prefix: prefix}
	var err error
	c.publisher, err = transport.Publisher(framework.PublisherConfig{})
	must(t, err)
	subscriber, err := transport.Subscriber(framework.SubscriberConfig{BatchEvents: 100})
	must(t, err)
	t.Cleanup(func() { _ = subscriber.Close() })
	c.messages, err = subscriber.Subscribe(t.Context(), prefix+"counts")
	must(t, err)
	return c
}

// visit writes a visit of each visitor.
func (c *countsOf) visit() {
	c.rounds++
	var records []framework.Record
	for i := range visitors {
		who := fmt.Sprint("v", i)
		records = append(records, framework.Record{ID: fmt.Sprint(c.rounds, "-", i), Key: who,
			Time: time.Date(2026, 7, 1, 0, c.rounds, 0, 0, time.UTC), Value: fmt.Appendf(nil, `{"Who":%q}`, who)})
	}
	must(c.t, c.publisher.Publish(c.t.Context(), c.prefix+"visits", records))
}

// await reads until each visitor has as many visits as were written.
func (c *countsOf) await() {
	c.t.Helper()
	c.awaitSome(visitors)
}

// awaitSome reads until so many visitors have.
func (c *countsOf) awaitSome(n int) {
	c.t.Helper()
	done := map[string]bool{}
	for len(done) < n {
		b, msg := next(c.t, c.messages)
		for _, r := range b.Records {
			var v visits
			must(c.t, json.Unmarshal(r.Value, &v))
			if v.Count > c.rounds {
				c.t.Fatalf("%s has %d visits after %d", v.Who, v.Count, c.rounds)
			}
			if v.Count == c.rounds {
				done[v.Who] = true
			}
		}
		msg.Ack()
	}
}

// deleteVisits deletes all visits, which are processed and marked.
func (c *countsOf) deleteVisits(partitions int) {
	c.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for p := range partitions {
		_, end, err := c.transport.Span(c.t.Context(), c.prefix+"visits", p)
		must(c.t, err)
		must(c.t, c.transport.Release(c.prefix+"visits", p, end))
		for start := int64(-1); start < end; {
			if time.Now().After(deadline) {
				c.t.Fatalf("records of partition %d are still there", p)
			}
			start, _, err = c.transport.Span(c.t.Context(), c.prefix+"visits", p)
			must(c.t, err)
		}
	}
}

// run runs a process until stop is called; restored tells which tasks were made from the changelog.
func (c *countsOf) run(config kafka.Config, dir string) (stop func(), restored func() []string) {
	c.t.Helper()
	store, err := microstore.Open(microstore.Config{Dir: dir})
	must(c.t, err)
	p := framework.NewPipeline(c.prefix + "visits")
	p.Changelog(framework.Changelog{CopyBytes: 1 << 10})
	framework.To(processors.Fold(framework.From[visit](p, c.prefix+"visits"), "count", visits{},
		func(v visits, e *framework.Event[visit]) (visits, error) { return visits{e.Key, v.Count + 1}, nil }), c.prefix+"counts")
	tasks := new(restoredTasks)
	transport := open(c.t, config)
	runner, err := framework.New(framework.Config{Store: store, Transport: transport, Logger: slog.New(slog.DiscardHandler),
		Hooks: []framework.Hook{tasks}, BatchEvents: 10}, p)
	must(c.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- runner.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			c.t.Error(err)
		}
		must(c.t, store.Close())
	})
	c.t.Cleanup(stop)
	return stop, tasks.names
}

type restoredTasks struct {
	lock sync.Mutex
	all  map[string]bool
}

func (r *restoredTasks) OnTask(i framework.TaskInfo) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.all == nil {
		r.all = map[string]bool{}
	}
	if i.State == framework.TaskRestored {
		r.all[i.Task] = true
	}
}

func (r *restoredTasks) names() (all []string) {
	r.lock.Lock()
	defer r.lock.Unlock()
	for name := range r.all {
		all = append(all, name)
	}
	return all
}

// What is read of a partition is what there is between two offsets.
func TestReadSpan(t *testing.T) {
	transport, _ := opened(t, 2)
	var records []framework.Record
	for i := range 100 {
		records = append(records, framework.Record{Key: "k1", Value: fmt.Append(nil, i)})
	}
	publish(t, transport, records...)
	p := framework.Partition("k1", 2)
	must(t, transport.Release("events", p, 10))
	for start := int64(0); start < 10; {
		var err error
		start, _, err = transport.Span(t.Context(), "events", p)
		must(t, err)
	}
	for _, c := range []struct{ from, to, first, n int64 }{{0, 100, 10, 90}, {20, 30, 20, 10}, {99, 100, 99, 1}, {0, 5, 0, 0}, {50, 50, 0, 0}} {
		var got []framework.Record
		must(t, transport.ReadSpan(t.Context(), "events", p, c.from, c.to, func(r []framework.Record) error {
			got = append(got, r...)
			return nil
		}))
		if int64(len(got)) != c.n || c.n > 0 && (got[0].Offset != c.first || string(got[0].Value) != fmt.Sprint(c.first)) {
			t.Errorf("%d to %d: %d records, want %d from %d on", c.from, c.to, len(got), c.n, c.first)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second) // all of which it takes
	defer cancel()
	if _, _, err := transport.Span(ctx, "events", 7); err == nil {
		t.Error("a partition that there is not has offsets")
	}
}

// A task that asks where its partition begins and ends asks for no other partition of the topic.
func TestSpanAsksForOnePartition(t *testing.T) {
	transport, cluster := opened(t, 20)
	publish(t, transport, framework.Record{Key: "k1"})
	var asked []int // partitions of each request
	cluster.ControlKey(int16(kmsg.ListOffsets), func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		n := 0
		for _, topic := range r.(*kmsg.ListOffsetsRequest).Topics {
			n += len(topic.Partitions)
		}
		asked = append(asked, n)
		return nil, nil, false
	})
	start, end, err := transport.Span(t.Context(), "events", framework.Partition("k1", 20))
	if err != nil || start != 0 || end != 1 {
		t.Errorf("it has %d to %d: %v", start, end, err)
	}
	if !slices.Equal(asked, []int{1, 1}) {
		t.Errorf("so many partitions were asked for: %v", asked)
	}
	asked = nil
	must(t, transport.ReadSpan(t.Context(), "events", framework.Partition("k1", 20), 0, 1, func([]framework.Record) error { return nil }))
	if !slices.Equal(asked, []int{1}) {
		t.Errorf("to read a part, so many were asked for: %v", asked)
	}
}
