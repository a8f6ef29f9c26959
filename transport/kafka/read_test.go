package kafka_test

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
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
	"github.com/millrace/millrace/transport/kafka"
)

// Read comes to the end where the last records are no events, and passes over those of aborted transactions.
func TestReadTransactions(t *testing.T) {
	transport, cluster := opened(t, 1)
	writer := client(t, cluster, kgo.TransactionalID("tx"), kgo.DefaultProduceTopic("events"))
	for value, end := range map[string]kgo.TransactionEndTry{"1": kgo.TryCommit, "aborted": kgo.TryAbort} {
		must(t, writer.BeginTransaction())
		must(t, writer.ProduceSync(t.Context(), kgo.StringRecord(value)).FirstErr())
		must(t, writer.EndTransaction(t.Context(), end))
	}
	got := ""
	next, err := transport.Read(t.Context(), "events", 0, 0, func(r framework.Record) error {
		got += string(r.Value)
		return nil
	})
	must(t, err)
	if got != "1" || next != 4 {
		t.Errorf("read %q up to %d", got, next)
	}
}

// Records that are deleted before Read, or after it has asked where the partition begins, are passed over.
func TestReadWhatIsDeleted(t *testing.T) {
	transport, cluster := opened(t, 1)
	publish(t, transport, numbered(0, 10)...)
	admin := kadm.NewClient(client(t, cluster))
	deleteTo := func(offset int64) {
		t.Helper()
		offsets := make(kadm.Offsets)
		offsets.AddOffset("events", 0, offset, -1)
		responses, err := admin.DeleteRecords(t.Context(), offsets)
		must(t, errors.Join(err, responses.Error()))
	}
	read := func() (got []framework.Record) {
		t.Helper()
		next, err := transport.Read(t.Context(), "events", 0, 0, func(r framework.Record) error {
			got = append(got, r)
			return nil
		})
		must(t, err)
		if next != 10 {
			t.Errorf("read up to %d", next)
		}
		return got
	}
	deleteTo(3)
	checkNumbered(t, read(), 3, 7)
	deleted := false
	cluster.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		if cluster.KeepControl(); !deleted {
			deleted = true
			cluster.SleepControl(func() { deleteTo(6) })
		}
		return nil, nil, false
	})
	checkNumbered(t, read(), 6, 4)
	if !deleted {
		t.Error("nothing was fetched")
	}
}

// Records that are deleted while ReadSpan reads are missed: it gives all before them, and an error that says so, also
// where nothing is left of what was asked for. Who asks again for the Span gets the rest.
func TestReadSpanOfWhatIsDeleted(t *testing.T) {
	for _, test := range []struct {
		at, to int64 // when this offset is asked for, those before that one are deleted
		rest   []int64
	}{
		{0, 1, []int64{1, 2, 3, 4, 5}},
		{0, 6, nil},
		{2, 4, []int64{4, 5}},
		{2, 6, nil},
	} {
		t.Run(fmt.Sprintf("before %d at %d", test.to, test.at), func(t *testing.T) {
			transport, cluster := opened(t, 1, func(c *kafka.Config) { c.Compression = "none" })
			records := numbered(0, 6)
			for i := range records {
				records[i].Value = make([]byte, 700<<10) // so that each comes by itself
			}
			publish(t, transport, records...)
			deleted := false
			cluster.ControlKey(int16(kmsg.Fetch), func(r kmsg.Request) (kmsg.Response, error, bool) {
				cluster.KeepControl()
				for _, topic := range r.(*kmsg.FetchRequest).Topics {
					for _, p := range topic.Partitions {
						if p.FetchOffset == test.at && !deleted {
							deleted = true
							must(t, cluster.DeleteRecords("events", 0, test.to))
						}
					}
				}
				return nil, nil, false
			})
			var got []int64
			read := func(from int64) error {
				got = nil
				return transport.ReadSpan(t.Context(), "events", 0, from, 6, func(records []framework.Record) error {
					for i := range records {
						got = append(got, records[i].Offset)
					}
					return nil
				})
			}
			err := read(0)
			if framework.ClassOf(err) != framework.ClassTransient || !errors.Is(err, kerr.OffsetOutOfRange) ||
				!strings.Contains(err.Error(), fmt.Sprintf(`partition 0 of "events" from offset %d`, test.at)) {
				t.Errorf("told of what is deleted: %v", err)
			}
			if want := []int64{0, 1}[:test.at]; !slices.Equal(got, want) {
				t.Errorf("read %v, want %v", got, want)
			}
			must(t, read(test.at))
			if !slices.Equal(got, test.rest) {
				t.Errorf("then read %v, want %v", got, test.rest)
			}
		})
	}
}

// A broker that does not deliver what it has is an error after a while, not a Read that does not end.
func TestReadGivesUp(t *testing.T) {
	_, cluster := opened(t, 1)
	transport := open(t, kafka.Config{Brokers: cluster.ListenAddrs(), Wait: time.Second})
	publish(t, transport, numbered(0, 10)...)
	none := func(framework.Record) error { return nil }
	span := func() error {
		return transport.ReadSpan(t.Context(), "events", 0, 2, 10, func([]framework.Record) error { return nil })
	}
	fault := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.NotLeaderForPartition, Count: -1})
	if next, err := transport.Read(t.Context(), "events", 0, 2, none); err == nil || next != 2 ||
		!strings.Contains(err.Error(), `partition 0 of "events"`) || framework.ClassOf(err) != framework.ClassTransient {
		t.Errorf("read up to %d: %v", next, err)
	}
	if err := span(); framework.ClassOf(err) != framework.ClassTransient {
		t.Errorf("read a part: %v", err)
	}
	fault.Remove()
	fault = cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.OffsetOutOfRange, Count: -1})
	if err := span(); framework.ClassOf(err) != framework.ClassTransient || !errors.Is(err, kerr.OffsetOutOfRange) {
		t.Errorf("a topic that was cut meanwhile: %v", err)
	}
	fault.Remove()
	if next, err := transport.Read(t.Context(), "events", 0, 2, none); err != nil || next != 10 {
		t.Errorf("read up to %d: %v", next, err)
	}
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.TopicAuthorizationFailed, Count: -1})
	if _, err := transport.Read(t.Context(), "events", 0, 0, none); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("not allowed: %v", err)
	}
	if err := span(); !errors.Is(err, kerr.TopicAuthorizationFailed) || framework.ClassOf(err) != framework.ClassPermanent {
		t.Errorf("a part, not allowed: %v", err)
	}
	must(t, transport.Close())
	if _, err := transport.Read(t.Context(), "events", 0, 0, none); !errors.Is(err, kafka.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if err := span(); !errors.Is(err, kafka.ErrClosed) {
		t.Errorf("a part, closed: %v", err)
	}
}

// A broker may not know a topic yet that another one has told of: it is asked again.
func TestTopicThatABrokerDoesNotKnowYet(t *testing.T) {
	_, cluster := opened(t, 1)
	transport := open(t, kafka.Config{Brokers: cluster.ListenAddrs()}) // without memory of the topic
	var refused atomic.Int64
	cluster.ControlKey(int16(kmsg.Metadata), func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		request := r.(*kmsg.MetadataRequest)
		if len(request.Topics) != 1 || *request.Topics[0].Topic != "events" || refused.Add(1) > 1 {
			return nil, nil, false
		}
		answer := request.ResponseKind().(*kmsg.MetadataResponse)
		topic := kmsg.NewMetadataResponseTopic()
		topic.Topic, topic.ErrorCode = request.Topics[0].Topic, kerr.UnknownTopicOrPartition.Code
		answer.Topics = append(answer.Topics, topic)
		host, port, err := net.SplitHostPort(cluster.ListenAddrs()[0])
		must(t, err)
		number, err := strconv.Atoi(port)
		must(t, err)
		answer.Brokers = append(answer.Brokers, kmsg.MetadataResponseBroker{Host: host, Port: int32(number)})
		return answer, nil, true
	})
	if _, end, err := transport.Span(t.Context(), "events", 0); err != nil || end != 0 {
		t.Errorf("the span ends at %d: %v", end, err)
	}
	if refused.Load() == 0 {
		t.Error("nobody has asked for the topic, so this tests nothing")
	}
}

// A broker that cannot tell offsets now is asked again: it or another one soon can.
func TestOffsetsWhileABrokerIsAway(t *testing.T) {
	transport, cluster := opened(t, 1)
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ListOffsets}, Err: kerr.OffsetNotAvailable, Count: 3})
	if _, _, err := transport.Span(t.Context(), "events", 0); err != nil {
		t.Error(err)
	}
}
