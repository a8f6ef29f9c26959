package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/transport/kafka"
)

type order struct {
	Customer string
	Amount   int
}

type total struct {
	Customer string
	Amounts  []int
}

// totals adds up the orders of each customer by minute. Orders are keyed by their ids, so they are re-keyed, and the
// windows of the second stage close by the watermarks of the first.
func totals(prefix string) *framework.Pipeline {
	p := framework.NewPipeline(prefix + "totals")
	orders := framework.From(p, prefix+"orders", framework.Source[order]{OutOfOrder: time.Second})
	byCustomer := processors.ReKey(orders, "by-customer", func(e *framework.Event[order]) string { return e.Data.Customer })
	framework.To(processors.Compact(byCustomer, "minutes", processors.Tumbling{Size: time.Minute},
		func(w framework.View[order]) (total, error) {
			sum := total{Customer: w.At(0).Key}
			for i := range w.Len() {
				sum.Amounts = append(sum.Amounts, w.At(i).Data.Amount)
			}
			return sum, nil
		}), prefix+"sums")
	return p
}

// run runs the pipeline over a store of its own until the returned function is called.
func run(t *testing.T, config kafka.Config, prefix, dir string) (stop func()) {
	t.Helper()
	transport := open(t, config)
	store, err := microstore.Open(microstore.Config{Dir: dir})
	must(t, err)
	runner, err := framework.New(framework.Config{
		Store: store, Transport: transport, Internal: transport, IdleAfter: -1, Logger: slog.New(slog.DiscardHandler),
	}, totals(prefix))
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- runner.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			must(t, store.Close())
		})
	}
	t.Cleanup(stop)
	return stop
}

// A pipeline of two stages whose topics are all in Kafka, on one process, then two, then the other alone, gives each
// sum once for its id, with all that belongs to it in order.
func TestPipelineOverKafka(t *testing.T) {
	pipelineOver(t, kafka.Config{Brokers: fake(t).ListenAddrs()}, "")
}

func TestPipelineOverKafkaOnBroker(t *testing.T) { pipelineOver(t, broker(t), own(t)) }

func pipelineOver(t *testing.T, config kafka.Config, prefix string) {
	transport := open(t, config)
	must(t, transport.CreateTopic(t.Context(), prefix+"orders", 4))
	must(t, transport.CreateTopic(t.Context(), prefix+"sums", 4))
	publisher, err := transport.Publisher(framework.PublisherConfig{})
	must(t, err)
	const customers, minutes, each = 7, 6, 20
	begin := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	write := func(minute int) {
		var records []framework.Record
		for i := range each {
			for c := range customers {
				id := fmt.Sprintf("%d-%d-%d", minute, i, c)
				records = append(records, framework.Record{
					ID: id, Key: id, Time: begin.Add(time.Duration(minute)*time.Minute + time.Duration(i)*time.Second),
					Value: fmt.Appendf(nil, `{"Customer":"c%d","Amount":%d}`, c, i),
				})
			}
		}
		must(t, publisher.Publish(t.Context(), prefix+"orders", records))
	}
	subscriber, err := transport.Subscriber(framework.SubscriberConfig{BatchEvents: 100})
	must(t, err)
	defer subscriber.Close()
	messages, err := subscriber.Subscribe(t.Context(), prefix+"sums")
	must(t, err)
	sums := map[string]string{}
	duplicates := 0
	await := func(n int) {
		t.Helper()
		for len(sums) < n {
			b, msg := next(t, messages)
			for _, r := range b.Records {
				if was, ok := sums[r.ID]; ok {
					if duplicates++; was != string(r.Value) {
						t.Errorf("id %s has %s and %s", r.ID, was, r.Value)
					}
				}
				sums[r.ID] = string(r.Value)
			}
			msg.Ack()
		}
	}

	one, two := t.TempDir(), t.TempDir()
	stopOne := run(t, config, prefix, one)
	write(0)
	write(1)
	await(customers)
	stopTwo := run(t, config, prefix, two)
	write(2)
	await(2 * customers)
	stopOne()
	write(3)
	await(3 * customers)
	stopTwo()
	write(4)
	run(t, config, prefix, one)
	await(4 * customers)
	write(5)
	write(minutes)
	await(minutes * customers)
	want := "["
	for i := range each {
		want += fmt.Sprint(i, ",")
	}
	want = want[:len(want)-1] + "]"
	seen := map[string]int{}
	for id, sum := range sums {
		seen[sum]++
		if len(sum) < len(want) || sum[len(sum)-len(want)-1:len(sum)-1] != want {
			t.Errorf("%s is %s", id, sum)
		}
	}
	if len(sums) != minutes*customers || len(seen) != customers {
		t.Errorf("%d sums of %d customers", len(sums), len(seen))
	}
	t.Logf("%d duplicates", duplicates)
}

// A member that cannot be in its group ends the run, though it has no partition that could fail.
func TestRunWithoutAGroup(t *testing.T) {
	cluster := fake(t)
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.JoinGroup}, Err: kerr.GroupAuthorizationFailed, Count: -1})
	transport := open(t, kafka.Config{Brokers: cluster.ListenAddrs()})
	must(t, transport.CreateTopic(t.Context(), "orders", 4))
	store, err := microstore.Open(microstore.Config{Dir: t.TempDir()})
	must(t, err)
	defer store.Close()
	runner, err := framework.New(framework.Config{Store: store, Transport: transport, Internal: transport}, totals(""))
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := runner.Run(ctx); !errors.Is(err, kerr.GroupAuthorizationFailed) || !strings.Contains(err.Error(), `group "totals"`) {
		t.Errorf("Run ended with %v", err)
	}
}
