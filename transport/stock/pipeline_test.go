package stock_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/transport/embedded"
	"github.com/millrace/millrace/transport/stock"
)

type order struct {
	N int `json:"n"`
}

const keys = 20

func kept(n int) bool { return n%3 != 0 }

// sums is a filter and a fold, from and to topics of a Pub/Sub.
func sums(from, to string) *framework.Pipeline {
	p := framework.NewPipeline("sums")
	orders := framework.From[order](p, from, framework.Source[order]{Name: "orders"})
	some := processors.Filter(orders, "some", func(e *framework.Event[order]) bool { return kept(e.Data.N) })
	framework.To(processors.Fold(some, "sum", 0, func(sum int, e *framework.Event[order]) (int, error) { return sum + e.Data.N, nil }), to)
	return p
}

// testPipeline runs a pipeline over n records three times over one store: it is stopped while records still come, then
// fails after a commit and before its acknowledgement, then takes the rest. Nothing is lost, nothing counts twice.
func testPipeline(t *testing.T, config stock.Config, n int) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	config.Group = "pipeline"
	transport := open(t, config)
	prefix := unique()
	in, out := prefix+"in", prefix+"out"
	for _, topic := range []string{in, out} {
		if err := transport.CreateTopic(ctx, topic, 1); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	store, err := microstore.Open(microstore.Config{Dir: dir, GCInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	topics, err := embedded.New(store, embedded.Config{})
	if err != nil {
		t.Fatal(err)
	}
	// run runs until as many orders are committed, and tells what the source has counted.
	run := func(until int64) (framework.Counts, error) {
		running, stop := context.WithCancel(ctx)
		defer stop()
		var runner *framework.Runner
		hook := onCommit(func() {
			if runner.Counts("sums", "orders").In >= until {
				stop()
			}
		})
		runner, err := framework.New(framework.Config{
			Store: store, Transport: topics, Hooks: []framework.Hook{hook}, BatchEvents: 50,
			Routes: map[string]framework.Transport{in: transport, out: transport},
		}, sums(in, out))
		if err != nil {
			t.Fatal(err)
		}
		err = runner.Run(running)
		if ctx.Err() != nil {
			t.Fatalf("in time the source has counted %+v: %v", runner.Counts("sums", "orders"), err)
		}
		return runner.Counts("sums", "orders"), err
	}

	written := make(chan error, 1)
	go func() { written <- writeOrders(ctx, transport, in, n) }()
	first, err := run(int64(n / 4))
	if err != nil {
		t.Fatalf("stopped under load: %v", err)
	}
	broken := errors.New("broken")
	var hits atomic.Int64
	disarm := failpoint.Arm("ack.before", func() error {
		if hits.Add(1) == 3 {
			return broken
		}
		return nil
	})
	second, err := run(int64(n))
	disarm()
	if !errors.Is(err, broken) {
		t.Fatalf("a run that had to fail: %v", err)
	}
	third, err := run(int64(n))
	if err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped at %d, failed at %d, %d came again", first.In, second.In, third.Duplicates)
	if first.In >= int64(n) || third.In != int64(n) || third.Faults != 0 {
		t.Errorf("the source counted %+v, then %+v, then %+v", first, second, third)
	}
	if third.Duplicates == 0 {
		t.Error("what was not acknowledged did not come again, so this test shows nothing")
	}
	checkSums(ctx, t, transport, out, n)
}

type onCommit func()

func (f onCommit) OnCommit(framework.CommitInfo) { f() }

func writeOrders(ctx context.Context, transport framework.Transport, topic string, n int) error {
	publisher, err := transport.Publisher(framework.PublisherConfig{})
	if err != nil {
		return err
	}
	start := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	for i := 0; i < n && err == nil; i += 10 {
		var records []framework.Record
		for j := i; j < min(i+10, n); j++ {
			records = append(records, framework.Record{
				ID: fmt.Sprint("order-", j), Key: fmt.Sprint("k", j%keys), Time: start.Add(time.Duration(j) * time.Second),
				Value: fmt.Appendf(nil, `{"n":%d}`, j),
			})
		}
		for {
			if err = publisher.Publish(ctx, topic, records); !errors.Is(err, errHalf) {
				break // else all are sent again, as the engine does
			}
		}
	}
	return errors.Join(err, publisher.Close())
}

// checkSums reads what the pipeline has sent: an output for each order that the filter keeps, perhaps more than once,
// and for each key the sum of all as the highest.
func checkSums(ctx context.Context, t *testing.T, transport *stock.Transport, topic string, n int) {
	t.Helper()
	want, count := map[string]int{}, 0
	for i := range n {
		if kept(i) {
			want[fmt.Sprint("k", i%keys)] += i
			count++
		}
	}
	subscriber, err := transport.Subscriber(framework.SubscriberConfig{Group: "pipeline", BatchEvents: 100, BatchBytes: 1 << 20, InFlight: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := subscriber.Close(); err != nil {
			t.Error(err)
		}
	}()
	messages, err := subscriber.Subscribe(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	values, sums := map[string]string{}, map[string]int{}
	for len(values) < count {
		msg, ok := <-messages
		if !ok {
			t.Fatalf("%d of %d outputs came in time", len(values), count)
		}
		b, _ := framework.BatchOf(msg)
		for _, r := range b.Records {
			if was, again := values[r.ID]; again && was != string(r.Value) {
				t.Errorf("output %s is %s and %s", r.ID, was, r.Value)
			}
			values[r.ID] = string(r.Value)
			sum := 0
			if _, err := fmt.Sscan(string(r.Value), &sum); err != nil {
				t.Fatal(err)
			}
			sums[r.Key] = max(sums[r.Key], sum)
		}
		msg.Ack()
	}
	for key := range want {
		if sums[key] != want[key] {
			t.Errorf("the sum of %s is %d, want %d", key, sums[key], want[key])
		}
	}
}
