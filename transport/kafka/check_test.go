package kafka

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/framework"
)

// What a topic takes is told before it is written, to the byte: neither is a record refused that can be written, but for
// the few bytes by which requests of brokers of different ages differ, nor is one let through that cannot.
func TestRecordCheck(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	for topic, limit := range map[string]string{"narrow": "5000", "wide": "2000000"} {
		if err := cluster.CreateTopic(topic, 1, map[string]string{"max.message.bytes": limit}); err != nil {
			t.Fatal(err)
		}
	}
	transport, err := New(t.Context(), Config{Brokers: cluster.ListenAddrs(), BatchBytes: 20_000})
	if err != nil {
		t.Fatal(err)
	}
	defer transport.Close()
	write, err := transport.Publisher(framework.PublisherConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for topic, most := range map[string]int{"narrow": 5000, "wide": 20_000} {
		fits := transport.RecordCheck(t.Context(), topic)
		record := func(value int) *framework.Record {
			return &framework.Record{
				ID: "id-1", Type: "order.placed", Source: "/shop", Key: "customer", Time: time.Unix(1_700_000_000, 123_000_000),
				Causes: "a b", Step: "p/s", Metadata: map[string]string{"traceparent": "00-1", "content-type": "application/json"},
				Value: []byte(strings.Repeat("x", value)),
			}
		}
		value := 0
		for fits(record(value+1)) == nil {
			value++
		}
		if value < most-500 || value > most {
			t.Errorf("%s: a value of %d bytes is the longest that fits", topic, value)
		}
		err := fits(record(value + 1))
		if !errors.Is(err, framework.ErrTooLarge) || !strings.Contains(err.Error(), "Config.BatchBytes") || !strings.Contains(err.Error(), topic) {
			t.Errorf("%s: %v", topic, err)
		}
		if err := write.Publish(context.Background(), topic, []framework.Record{*record(value)}); err != nil {
			t.Errorf("%s: what fits is refused: %v", topic, err)
		}
		if err := write.Publish(context.Background(), topic, []framework.Record{*record(value + 4)}); !errors.Is(err, framework.ErrTooLarge) {
			t.Errorf("%s: what does not fit: %v", topic, err)
		}
	}
}

// The quick look never takes a record for smaller than it is.
func TestRecordsAreNoLarger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRecord(t)
		r.Metadata = rapid.MapOf(anyText, anyText).Draw(t, "metadata")
		if most, is := bytesAtMost(&r), bytesOfBatch(&r); most < is {
			t.Fatalf("%+v: at most %d bytes, but it has %d", r, most, is)
		}
	})
}
