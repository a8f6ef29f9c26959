package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/kafka"
)

// Keys go where the partitioners of Java's client and of franz-go put them.
func TestKeysAreCoPartitioned(t *testing.T) {
	transport, cluster := opened(t, 7)
	other := client(t, cluster, kgo.DefaultProduceTopic("events"), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	var ours []framework.Record
	var theirs []*kgo.Record
	for i := range 200 {
		key := strings.Repeat("ä", i%5) + fmt.Sprint(i)
		ours = append(ours, framework.Record{ID: "x", Key: key, Value: []byte("ours")})
		theirs = append(theirs, &kgo.Record{Key: []byte(key), Value: []byte("theirs")})
	}
	publish(t, transport, ours...)
	must(t, other.ProduceSync(t.Context(), theirs...).FirstErr())
	_, messages := subscribe(t, transport, -1)
	found := map[string]int{}
	for n := 0; n < 400; {
		b, msg := next(t, messages)
		for _, r := range b.Records {
			if at, ok := found[r.Key]; ok && at != b.Partition {
				t.Fatalf("key %q is in partitions %d and %d", r.Key, at, b.Partition)
			}
			found[r.Key] = b.Partition
		}
		n += len(b.Records)
		msg.Ack()
	}
}

// The engine's watermarks, which have no key, reach every partition, behind what was published before them.
func TestWatermarksReachEveryPartition(t *testing.T) {
	transport, _ := opened(t, 3)
	at := time.Now().UTC()
	publish(t, transport, framework.Record{ID: "1", Key: "k"}, framework.Record{Watermark: true, Source: "2", Time: at},
		framework.Record{Watermark: true, Source: "3"})
	_, messages := subscribe(t, transport, -1)
	marks := map[int]int{}
	for n := 0; n < 7; {
		b, msg := next(t, messages)
		for i, r := range b.Records {
			switch {
			case !r.Watermark && i != 0:
				t.Error("the record comes behind a watermark")
			case r.Watermark && r.Source == "2" && r.Time.Equal(at), r.Watermark && r.Source == "3" && r.Time.IsZero():
				marks[b.Partition]++
			case r.Watermark:
				t.Errorf("%+v", r)
			}
		}
		n += len(b.Records)
		msg.Ack()
	}
	if marks[0] != 2 || marks[1] != 2 || marks[2] != 2 {
		t.Errorf("watermarks by partition: %v", marks)
	}
}

func TestErrorsOfPublishing(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault *kerr.Error
		value int
		class framework.Class
		want  []string
	}{
		{"10 MB", nil, 10_000_000, framework.ClassPermanent, []string{`"id-0"`, "MESSAGE_TOO_LARGE", "Config.BatchBytes", "max.message.bytes"}},
		{"over the buffer", nil, 40_000_000, framework.ClassPermanent, []string{"MESSAGE_TOO_LARGE"}},
		{"not allowed", kerr.TopicAuthorizationFailed, 1, framework.ClassFatal, []string{`"events"`, "operation Write"}},
		{"no timestamp fits", kerr.InvalidTimestamp, 1, framework.ClassPermanent, []string{"message.timestamp"}},
		{"refused by policy", kerr.PolicyViolation, 1, framework.ClassPermanent, []string{"POLICY_VIOLATION"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			transport, cluster := opened(t, 1)
			if test.fault != nil {
				cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: test.fault, Count: -1})
			}
			records := numbered(0, 1)
			records[0].Value = make([]byte, test.value)
			publisher, err := transport.Publisher(framework.PublisherConfig{})
			must(t, err)
			err = publisher.Publish(t.Context(), "events", records)
			if err == nil || framework.ClassOf(err) != test.class {
				t.Fatalf("%v, class %s", err, framework.ClassOf(err))
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v: expected %q", err, want)
				}
			}
		})
	}
}

// A batch is bounded by what the topic takes: records that are small enough are written, however many there are.
func TestBatchesFitTheTopic(t *testing.T) {
	transport, cluster := opened(t, 1, func(c *kafka.Config) { c.Compression = "none" })
	must(t, cluster.DeleteTopic("events"))
	must(t, cluster.CreateTopic("events", 1, map[string]string{"max.message.bytes": "5000"}))
	records := numbered(0, 200)
	for i := range records {
		records[i].Metadata = map[string]string{"pad": strings.Repeat("x", 500)}
	}
	publish(t, transport, records...)
	_, messages := subscribe(t, transport, -1)
	got, _ := take(t, messages, 200)
	checkNumbered(t, got, 0, 200)
}

// Brokers that fail, restart and refuse for a while cost neither records nor their order, and an answer that is lost
// costs no duplicate.
func TestOrderSurvivesErrors(t *testing.T) {
	t.Parallel()
	transport, cluster := opened(t, 2)
	for _, err := range []*kerr.Error{kerr.NotLeaderForPartition, kerr.NotEnoughReplicas, kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend} {
		cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: err, Count: 3})
	}
	var drops sync.Mutex
	dropped := 0
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		drops.Lock()
		defer drops.Unlock()
		if dropped++; dropped > 5 {
			cluster.DropControl()
			return nil, nil, false
		}
		cluster.KeepControl()
		return nil, errors.New("the connection breaks"), true
	})
	for from := 0; from < 1000; from += 50 {
		publish(t, transport, numbered(from, 50)...)
	}
	_, messages := subscribe(t, transport, -1)
	got, _ := take(t, messages, 1000)
	checkNumbered(t, got, 0, 1000)
}

// A broker that does not answer: Publish ends with its context, and, where nothing was sent, at the DeliveryTimeout
// with an error that passes.
func TestPublishEnds(t *testing.T) {
	transport, cluster := opened(t, 1, func(c *kafka.Config) { c.DeliveryTimeout = time.Second })
	publisher, err := transport.Publisher(framework.PublisherConfig{})
	must(t, err)
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
	err = publisher.Publish(t.Context(), "events", numbered(0, 10))
	if err == nil || !strings.Contains(err.Error(), "DeliveryTimeout") || framework.ClassOf(err) != framework.ClassTransient {
		t.Errorf("brokers that refuse for ever: %v", err)
	}
	hang := make(chan struct{})
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		select {
		case <-hang:
		default:
			close(hang)
		}
		return nil, nil, true // no answer
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-hang; cancel() }()
	err = publisher.Publish(ctx, "events", numbered(0, 10))
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "10 records are not acknowledged") {
		t.Errorf("a broker that does not answer: %v", err)
	}
}

func TestPublishToNothing(t *testing.T) {
	transport, _ := opened(t, 1)
	publisher, err := transport.Publisher(framework.PublisherConfig{})
	must(t, err)
	err = publisher.Publish(t.Context(), "evnets", numbered(0, 1))
	if !errors.Is(err, framework.ErrNoTopic) || !strings.Contains(err.Error(), `"evnets"`) || !strings.Contains(err.Error(), "CreateTopic") {
		t.Errorf("an unknown topic: %v", err)
	}
	if err := publisher.Publish(t.Context(), "a topic", numbered(0, 1)); err == nil || !strings.Contains(err.Error(), "letters") {
		t.Errorf("a bad name: %v", err)
	}
	must(t, publisher.Publish(t.Context(), "events", numbered(0, 1)))
	must(t, transport.Close())
	err = publisher.Publish(t.Context(), "events", numbered(0, 1))
	if !errors.Is(err, kafka.ErrClosed) || framework.ClassOf(err) != framework.ClassFatal {
		t.Errorf("after Close: %v", err)
	}
}

// A topic that is made anew with fewer partitions is an error that passes: the next attempt goes by the new number.
func TestTopicThatIsMadeAnew(t *testing.T) {
	transport, cluster := opened(t, 8)
	var records []framework.Record
	for i := range 100 {
		records = append(records, framework.Record{ID: fmt.Sprint(i), Key: fmt.Sprint(i)})
	}
	publish(t, transport, records...)
	must(t, cluster.DeleteTopic("events"))
	must(t, cluster.CreateTopic("events", 2, nil))
	publisher, err := transport.Publisher(framework.PublisherConfig{})
	must(t, err)
	for attempt := 0; ; attempt++ {
		err := publisher.Publish(t.Context(), "events", records)
		if err == nil {
			break
		}
		if attempt == 10 || framework.ClassOf(err) == framework.ClassFatal {
			t.Fatal(err)
		}
	}
	_, messages := subscribe(t, transport, -1)
	for n := 0; n < 100; {
		b, msg := next(t, messages)
		for _, r := range b.Records {
			if q := framework.Partition(r.Key, 2); q != b.Partition {
				t.Errorf("key %s is in partition %d, expected %d", r.Key, b.Partition, q)
			}
		}
		n += len(b.Records)
		msg.Ack()
	}
}
