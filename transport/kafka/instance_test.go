package kafka_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/kafka"
)

// Two programs with one InstanceID: the run of the first ends, which says why; the second goes on with all partitions. On a
// fake broker and on a real one.
func TestInstanceIDTwice(t *testing.T) {
	cluster := fake(t)
	instanceIDTwice(t, kafka.Config{Brokers: cluster.ListenAddrs()}, "")
}

func TestInstanceIDTwiceOnBroker(t *testing.T) { instanceIDTwice(t, broker(t), own(t)) }

func instanceIDTwice(t *testing.T, config kafka.Config, prefix string) {
	config.InstanceID = "a"
	one, two := open(t, config), open(t, config)
	name, in, out := prefix+"twice", prefix+"in", prefix+"out"
	must(t, one.CreateTopic(t.Context(), in, 2))
	must(t, one.CreateTopic(t.Context(), out, 2))
	publisher, err := one.Publisher(frameworkPublisher)
	must(t, err)
	results := readTopic(t, one, out)
	orders := func(all ...string) { // each comes out, the first perhaps again
		left := map[string]bool{}
		for _, id := range all {
			left[id] = true
			must(t, publisher.Publish(t.Context(), in, []framework.Record{{ID: id, Key: id, Value: fmt.Appendf(nil, `{"Amount":%s}`, id)}}))
		}
		for len(left) > 0 {
			records, _ := take(t, results, 1)
			for i := range records {
				delete(left, records[i].Key)
			}
		}
	}
	first := begun(t, one, passing(name, in, out))
	orders("1")
	second := begun(t, two, passing(name, in, out))
	select {
	case err = <-first:
	case <-time.After(memberPatience):
		t.Fatal("the first goes on")
	}
	if !errors.Is(err, kerr.FencedInstanceID) || !strings.Contains(err.Error(), `another program has InstanceID "a"`) {
		t.Error(err)
	}
	orders("2", "3", "4", "5")
	select {
	case err := <-second:
		t.Errorf("the second ended too: %v", err)
	default:
	}
}
