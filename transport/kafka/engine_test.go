package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
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
	sums := newSums(t, config, prefix)
	one, two := t.TempDir(), t.TempDir()
	stopOne := run(t, config, prefix, one)
	sums.write(0)
	sums.write(1)
	sums.await(customers)
	stopTwo := run(t, config, prefix, two)
	sums.write(2)
	sums.await(2 * customers)
	stopOne()
	sums.write(3)
	sums.await(3 * customers)
	stopTwo()
	sums.write(4)
	run(t, config, prefix, one)
	sums.await(4 * customers)
	sums.write(5)
	sums.write(6)
	sums.await(6 * customers)
	sums.check(6)
}

const (
	customers = 7
	orders    = 20 // of a customer in a minute
)

// sumsOf writes orders and collects what comes of them.
type sumsOf struct {
	t          *testing.T
	prefix     string
	publisher  framework.Publisher
	messages   <-chan *message.Message
	byID       map[string]string
	duplicates int
}

func newSums(t *testing.T, config kafka.Config, prefix string) *sumsOf {
	t.Helper()
	transport := open(t, config)
	must(t, transport.CreateTopic(t.Context(), prefix+"orders", 4))
	must(t, transport.CreateTopic(t.Context(), prefix+"sums", 4))
	s := &sumsOf{t: t, prefix: prefix, byID: map[string]string{}}
	var err error
	s.publisher, err = transport.Publisher(framework.PublisherConfig{})
	must(t, err)
	subscriber, err := transport.Subscriber(framework.SubscriberConfig{BatchEvents: 100})
	must(t, err)
	t.Cleanup(func() { _ = subscriber.Close() })
	s.messages, err = subscriber.Subscribe(t.Context(), prefix+"sums")
	must(t, err)
	return s
}

// write publishes the orders of a minute, of all customers in turn.
func (s *sumsOf) write(minute int) {
	s.t.Helper()
	begin := time.Date(2026, 7, 1, 0, minute, 0, 0, time.UTC)
	var records []framework.Record
	for i := range orders {
		for c := range customers {
			id := fmt.Sprintf("%d-%d-%d", minute, i, c)
			records = append(records, framework.Record{
				ID: id, Key: id, Time: begin.Add(time.Duration(i) * time.Second),
				Value: fmt.Appendf(nil, `{"Customer":"c%d","Amount":%d}`, c, i),
			})
		}
	}
	must(s.t, s.publisher.Publish(s.t.Context(), s.prefix+"orders", records))
}

// await reads until there are so many sums.
func (s *sumsOf) await(n int) {
	s.t.Helper()
	for len(s.byID) < n {
		b, msg := next(s.t, s.messages)
		for _, r := range b.Records {
			if was, ok := s.byID[r.ID]; ok {
				if s.duplicates++; was != string(r.Value) {
					s.t.Errorf("id %s has %s and %s", r.ID, was, r.Value)
				}
			}
			s.byID[r.ID] = string(r.Value)
		}
		msg.Ack()
	}
}

// check checks that each customer has a whole sum of each minute.
func (s *sumsOf) check(minutes int) {
	s.t.Helper()
	want := map[string]int{}
	for c := range customers {
		amounts := strings.ReplaceAll(strings.Trim(fmt.Sprint(slices.Collect(seq(orders))), "[]"), " ", ",")
		want[fmt.Sprintf(`{"Customer":"c%d","Amounts":[%s]}`, c, amounts)] = minutes
	}
	got := map[string]int{}
	for _, sum := range s.byID {
		got[sum]++
	}
	if !maps.Equal(got, want) {
		s.t.Errorf("sums %v, expected %v", got, want)
	}
	s.t.Logf("%d duplicates", s.duplicates)
}

func seq(n int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
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
