package kafka_test

import (
	"bytes"
	"log/slog"
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

// lines is a log that can be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestPositionsOutOfRange(t *testing.T) {
	for _, test := range []struct {
		name string
		from int64
		skip bool
		want []string // of the error; none: reading goes on at 30
	}{
		{"records are gone", 10, false, []string{"offset 10", "oldest record kept is 30", "Config.SkipGone"}},
		{"records are gone, and skipped", 10, true, nil},
		{"past the end", 101, false, []string{"offset 101", "ends at 100"}},
		{"past the end, and nothing can be skipped", 101, true, []string{"offset 101", "ends at 100"}},
		{"from the oldest", 30, false, nil},
		{"without a position", -1, false, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			log := &lines{}
			transport, cluster := opened(t, 1, func(c *kafka.Config) {
				c.SkipGone, c.Logger = test.skip, slog.New(slog.NewTextHandler(log, nil))
			})
			publish(t, transport, numbered(0, 100)...)
			must(t, cluster.DeleteRecords("events", 0, 30))
			if test.want == nil {
				_, messages := subscribe(t, transport, test.from)
				got, _ := take(t, messages, 70)
				checkNumbered(t, got, 30, 70)
				if test.skip && !strings.Contains(log.String(), "gone=20") {
					t.Errorf("the log does not tell what was skipped: %s", log)
				}
				return
			}
			subscriber, err := transport.Subscriber(framework.SubscriberConfig{
				Start: func(string, int) (int64, bool) { return test.from, true }})
			must(t, err)
			defer subscriber.Close()
			_, err = subscriber.Subscribe(t.Context(), "events")
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v: expected %q", err, want)
				}
			}
		})
	}
}

// Retention overtakes a reader while it reads: its next batch says so, or what is kept comes next.
func TestRecordsGoWhileReading(t *testing.T) {
	for _, skip := range []bool{false, true} {
		transport, cluster := opened(t, 1, func(c *kafka.Config) { c.ReadBytes, c.SkipGone = 64<<10, skip })
		records := numbered(0, 4000)
		for i := range records {
			records[i].Metadata = map[string]string{"pad": strings.Repeat("x", 200)}
		}
		for i := 0; i < 4000; i += 500 { // a fetch takes whole batches
			publish(t, transport, records[i:i+500]...)
		}
		_, messages := subscribe(t, transport, -1)
		b, msg := next(t, messages) // reading ahead is bounded
		must(t, cluster.DeleteRecords("events", 0, 3900))
		msg.Ack()
		count := len(b.Records)
		for {
			b, msg = next(t, messages)
			if len(b.Records) == 1 && b.Records[0].Err != nil {
				err := b.Records[0].Err
				if skip || framework.ClassOf(err) != framework.ClassFatal || !strings.Contains(err.Error(), "oldest record kept is 3900") {
					t.Fatal(err)
				}
				break
			}
			count += len(b.Records)
			if b.CaughtUp {
				if !skip || b.Next != 4000 {
					t.Fatalf("read to %d without an error", b.Next)
				}
				break
			}
			msg.Ack()
		}
		if count > 3900 {
			t.Errorf("%d of 4000 records were read: nothing was gone", count)
		}
	}
}

// What is aborted is not read, and the end is reached though markers are all that is there.
func TestTransactions(t *testing.T) {
	transport, cluster := opened(t, 1)
	writer := client(t, cluster, kgo.TransactionalID("tx"), kgo.DefaultProduceTopic("events"))
	write := func(value string, end kgo.TransactionEndTry) {
		t.Helper()
		must(t, writer.BeginTransaction())
		must(t, writer.ProduceSync(t.Context(), kgo.StringRecord(value)).FirstErr())
		must(t, writer.EndTransaction(t.Context(), end))
	}
	write("1", kgo.TryCommit)
	write("aborted", kgo.TryAbort)
	write("2", kgo.TryCommit)
	write("aborted", kgo.TryAbort)
	_, messages := subscribe(t, transport, -1)
	got := ""
	for {
		b, msg := next(t, messages)
		for _, r := range b.Records {
			got += string(r.Value)
		}
		msg.Ack()
		if b.CaughtUp {
			if b.Next != 8 {
				t.Errorf("caught up at %d", b.Next)
			}
			break
		}
	}
	if got != "12" {
		t.Errorf("read %q", got)
	}
}

// A reader that nobody takes batches from holds about ReadBytes, and goes on where it was.
func TestReadingAheadIsBounded(t *testing.T) {
	transport, cluster := opened(t, 1, func(c *kafka.Config) { c.ReadBytes = 256 << 10 })
	const n, size = 2000, 10_000 // 20 MB
	payload := bytes.Repeat([]byte("x"), size)
	for from := 0; from < n; from += 50 {
		records := numbered(from, 50)
		for i := range records {
			records[i].Value = append(records[i].Value[:len(records[i].Value):len(records[i].Value)], payload...)
		}
		publish(t, transport, records...)
	}
	fetched := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Observe: true, Count: -1})
	_, messages := subscribe(t, transport, -1)
	b, msg := next(t, messages)
	time.Sleep(100 * time.Millisecond)    // for what must not come: more of it
	if hits := fetched.Hits(); hits > 8 { // of 40: each brings half a megabyte, or nothing when the partition is paused meanwhile
		t.Errorf("%d fetches, while nobody takes what they bring", hits)
	}
	msg.Ack()
	rest, _ := take(t, messages, n-len(b.Records))
	if rest[len(rest)-1].Offset != n-1 {
		t.Errorf("the last is %d", rest[len(rest)-1].Offset)
	}
}

// Errors of a broker that pass are passed over; those that do not end the partition with an error.
func TestErrorsOfReading(t *testing.T) {
	transport, cluster := opened(t, 1)
	for _, err := range []*kerr.Error{kerr.NotLeaderForPartition, kerr.OffsetNotAvailable} {
		cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: err})
	}
	publish(t, transport, numbered(0, 100)...)
	_, messages := subscribe(t, transport, -1)
	got, _ := take(t, messages, 100)
	checkNumbered(t, got, 0, 100)

	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Err: kerr.TopicAuthorizationFailed, Count: -1})
	for {
		b, _ := next(t, messages)
		if len(b.Records) == 0 {
			continue
		}
		if err := b.Records[0].Err; framework.ClassOf(err) != framework.ClassFatal || !strings.Contains(err.Error(), "TOPIC_AUTHORIZATION_FAILED") || b.Next != 100 {
			t.Errorf("%+v: %v", b, err)
		}
		break
	}
}

// Bytes that make no event are errors of their records; the others come.
func TestGarbage(t *testing.T) {
	transport, cluster := opened(t, 1)
	other := client(t, cluster, kgo.DefaultProduceTopic("events"), kgo.ProducerBatchMaxBytes(2<<20))
	var bomb []kgo.RecordHeader
	for range 50_000 {
		bomb = append(bomb, kgo.RecordHeader{Key: "h", Value: []byte("v")})
	}
	must(t, other.ProduceSync(t.Context(),
		&kgo.Record{Value: []byte{0xff, 0}, Headers: []kgo.RecordHeader{{Key: "ce_time", Value: []byte{0xff}}}},
		&kgo.Record{Value: []byte("bomb"), Headers: bomb},
		&kgo.Record{Value: []byte("fine")},
		&kgo.Record{},
	).FirstErr())
	_, messages := subscribe(t, transport, -1)
	var all []framework.Record
	for len(all) < 4 {
		b, msg := next(t, messages)
		all = append(all, b.Records...)
		msg.Ack()
	}
	if all[0].Err == nil || all[1].Err == nil || string(all[1].Value) != "bomb" || all[2].Err != nil || all[3].Err != nil {
		t.Errorf("%+v", all)
	}
}

// A kept topic has no retention, and Release deletes what is before an offset.
func TestKeptTopics(t *testing.T) {
	transport, cluster := opened(t, 1)
	must(t, transport.CreateKept(t.Context(), "kept", 1))
	settings := cluster.TopicInfo("kept").Configs
	for name, want := range map[string]string{"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete"} {
		if got := settings[name]; got == nil || *got != want {
			t.Errorf("%s is %v, expected %s", name, got, want)
		}
	}
	publish(t, transport, numbered(0, 100)...)
	deleted := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DeleteRecords}, Observe: true, Count: -1})
	must(t, transport.Release("events", 0, 40))
	must(t, deleted.Wait(t.Context(), 1))
	must(t, transport.Release("events", 0, 60))
	must(t, deleted.Wait(t.Context(), 2))
	if _, _, err := transport.Span(t.Context(), "events", 0); err != nil { // the broker has answered what came before
		t.Fatal(err)
	}
	if start := cluster.PartitionInfo("events", 0).LogStartOffset; start < 40 {
		t.Errorf("the oldest is %d", start)
	}
	if start, records, bytes, err := transport.Held("events", 0, 80); err != nil || start != 80 || records != 20 || bytes <= 0 || bytes > 20_000 {
		t.Errorf("held from 80: %d, %d records of %d bytes, %v", start, records, bytes, err)
	}
	if start, records, _, err := transport.Held("events", 0, 500); err != nil || start != 100 || records != 0 {
		t.Errorf("held from 500: %d, %d records, %v", start, records, err)
	}
	if _, _, _, err := transport.Held("events", 3, 0); err == nil {
		t.Error("a partition that is not there: no error")
	}
	_, messages := subscribe(t, transport, 60)
	got, _ := take(t, messages, 40)
	checkNumbered(t, got, 60, 40)
}
