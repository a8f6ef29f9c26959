package kafka_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

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
