package kafka_test

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/kafka"
)

// The broker goes away and comes back while records are written and read: nothing is lost, and all goes on by itself.
// What a Publish reports as failed is published again, as a relay does.
func TestBrokerRestarts(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	port := listener.Addr().(*net.TCPAddr).Port
	must(t, listener.Close())
	dir := t.TempDir()
	start := func() *kfake.Cluster {
		t.Helper()
		var cluster *kfake.Cluster
		for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) { // until the port is free again
			var err error
			if cluster, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(port), kfake.DataDir(dir), kfake.SyncWrites()); err == nil {
				return cluster
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	cluster := start()
	t.Cleanup(func() { cluster.Close() })
	transport := open(t, kafka.Config{Brokers: cluster.ListenAddrs(), DeliveryTimeout: 2 * time.Second})
	must(t, transport.CreateTopic(t.Context(), "events", 1))
	publisher, err := transport.Publisher(framework.PublisherConfig{})
	must(t, err)
	_, messages := subscribe(t, transport, -1)

	const n = 900
	written := make(chan struct{})
	go func() {
		defer close(written)
		for from := 0; from < n; from += 20 {
			for publisher.Publish(t.Context(), "events", numbered(from, min(20, n-from))) != nil && t.Context().Err() == nil {
			}
		}
	}()
	seen := map[string]bool{}
	for _, until := range []int{n / 6, n / 2, n} { // and then it restarts
		for len(seen) < until {
			b, msg := next(t, messages)
			for _, r := range b.Records {
				if value := string(r.Value); !seen[value] && value != fmt.Sprint(len(seen)) {
					t.Fatalf("%s comes first behind %d others", value, len(seen))
				}
				seen[string(r.Value)] = true
			}
			msg.Ack()
		}
		cluster.Close()
		cluster = start()
	}
	<-written
}

// A broker that is starting may take connections and end them at once, as may what stands before it. Whatever is asked
// of a transport then waits for the answer, and a partition that is taken over then is taken over.
func TestBrokerIsStarting(t *testing.T) {
	t.Parallel()
	const refusals = 12
	cases := map[string]func(*testing.T, *kafka.Transport) error{
		"topic": func(t *testing.T, k *kafka.Transport) error {
			if _, err := k.Topic(t.Context(), "none"); !errors.Is(err, framework.ErrNoTopic) {
				return fmt.Errorf("not told that there is none: %w", err)
			}
			return nil
		},
		"create": func(t *testing.T, k *kafka.Transport) error { return k.CreateTopic(t.Context(), "another", 2) },
		"span": func(t *testing.T, k *kafka.Transport) error {
			_, _, err := k.Span(t.Context(), "events", 0)
			return err
		},
		"read span": func(t *testing.T, k *kafka.Transport) error {
			return k.ReadSpan(t.Context(), "events", 0, 0, 10, func([]framework.Record) error { return nil })
		},
		"read": func(t *testing.T, k *kafka.Transport) error {
			_, err := k.Read(t.Context(), "events", 0, 0, func(framework.Record) error { return nil })
			return err
		},
		"subscribe": func(t *testing.T, k *kafka.Transport) error {
			_, messages := subscribe(t, k, -1)
			_, msg := next(t, messages)
			msg.Ack()
			return nil
		},
	}
	for name, ask := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			transport, cluster := opened(t, 1)
			publish(t, transport, numbered(0, 10)...)
			left := refuse(cluster, refusals)
			if err := ask(t, transport); err != nil {
				t.Error(err)
			}
			if n := left.Load(); n > refusals/2 {
				t.Errorf("the broker has refused only %d requests", refusals-n)
			}
		})
	}
}

// refuse lets a broker end the connection with each of the next n requests.
func refuse(cluster *kfake.Cluster, n int32) (left *atomic.Int32) {
	left = new(atomic.Int32)
	left.Store(n)
	cluster.Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		if left.Add(-1) < 0 {
			return nil, nil, false
		}
		cluster.KeepControl()
		return nil, errors.New("not yet"), true
	})
	return left
}

func TestBrokerIsStartingAtATakeOver(t *testing.T) {
	const refusals = 12
	transport, cluster := opened(t, 2)
	publish(t, transport, spreadOver(100)...)
	var left atomic.Pointer[atomic.Int32]
	away := sync.OnceFunc(func() {
		time.Sleep(300 * time.Millisecond) // the client answers from memory for 250
		left.Store(refuse(cluster, refusals))
	})
	l := newLedger(t, []string{"events"})
	w := l.join("one", transport, func(w *worker) { w.onAssign = func(int) { away() } })
	l.await("all is processed or fails", func() bool { return l.count == 100 || len(w.errs) > 0 })
	if len(w.errs) > 0 {
		t.Fatal(<-w.errs)
	}
	if n := left.Load().Load(); n > refusals/2 {
		t.Errorf("the broker has refused only %d requests", refusals-n)
	}
}
