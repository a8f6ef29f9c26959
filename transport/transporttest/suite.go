package transporttest

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
)

const (
	glance  = 20 * time.Millisecond // for what must not happen
	tooMany = 1000                  // batches without records one after the other
)

type suite struct {
	*testing.T
	Fixture
	Features
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) create(topic string) string {
	s.Helper()
	topic = s.Prefix + topic
	if s.Fixture.Create != nil {
		s.Fixture.Create(s, topic, s.Partitions)
		return topic
	}
	creator, ok := s.Transport.(framework.TopicCreator)
	if !ok {
		s.Fatal("the fixture has no Create and the transport is no framework.TopicCreator")
	}
	s.must(creator.CreateTopic(s.Context(), topic, s.Partitions))
	return topic
}

func (s *suite) publisher() framework.Publisher {
	s.Helper()
	p, err := s.Transport.Publisher(framework.PublisherConfig{Logger: slog.New(slog.DiscardHandler)})
	s.must(err)
	s.Cleanup(func() { _ = p.Close() })
	return p
}

func (s *suite) write(topic string, records []framework.Record) {
	s.Helper()
	if s.Fixture.Write != nil {
		s.Fixture.Write(s, topic, records)
		return
	}
	s.must(s.publisher().Publish(s.Context(), topic, records))
}

// restart gives a transport that knows nothing of what was read.
func (s *suite) restart() {
	if s.Fixture.Restart != nil {
		s.Transport = s.Fixture.Restart(s)
	}
}

// many is n, or less where the transport is slow.
func (s *suite) many(n int) int {
	if s.Slow {
		return n / 10
	}
	return n
}

// again reads what was not acknowledged, and what was behind it.
func (s *suite) again(topic string, want []framework.Record) {
	s.Helper()
	s.restart()
	s.Unordered = s.Unordered || s.ReturnsLater
	s.sameOrder(want, s.read(topic, config()).take(len(want)))
}

// records makes n records over some keys; the value tells key and rank: "k3/17".
func records(from, n, keys int) []framework.Record {
	all := make([]framework.Record, n)
	for i := range all {
		rank := from + i
		key := fmt.Sprintf("k%d", rank%keys)
		all[i] = framework.Record{
			ID: fmt.Sprintf("id-%d", rank), Key: key, Type: "test",
			Time:  time.Unix(1700000000, int64(rank)).UTC(),
			Value: fmt.Appendf(nil, "%s/%d", key, rank),
		}
	}
	return all
}

// config is a subscriber's config with a few things changed.
func config(change ...func(*framework.SubscriberConfig)) framework.SubscriberConfig {
	c := framework.SubscriberConfig{
		Group: "transporttest", BatchEvents: 100, BatchBytes: 1 << 20, InFlight: 2,
		Start:  func(string, int) (int64, bool) { return 0, false },
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

// reading is one subscription.
type reading struct {
	s          *suite
	subscriber message.Subscriber
	messages   <-chan *message.Message
	next       map[int]int64   // where each partition goes on
	seq        map[int]uint64  // the number that the next batch must have
	seen       map[string]bool // ids, where records come again
	empty      int             // batches without records since the last one with some
}

func (s *suite) read(topic string, c framework.SubscriberConfig) *reading {
	s.Helper()
	subscriber, err := s.Transport.Subscriber(c)
	s.must(err)
	s.Cleanup(func() { _ = subscriber.Close() })
	messages, err := subscriber.Subscribe(s.Context(), topic)
	s.must(err)
	return &reading{s: s, subscriber: subscriber, messages: messages, next: map[int]int64{}, seq: map[int]uint64{}, seen: map[string]bool{}}
}

// batch waits for the next batch and checks what must hold for each.
func (r *reading) batch() (*framework.Batch, *message.Message) {
	r.s.Helper()
	select {
	case msg, ok := <-r.messages:
		if !ok {
			r.s.Fatal("the channel was closed while batches were expected")
		}
		b, ok := framework.BatchOf(msg)
		if !ok {
			r.s.Fatal("a message carries no batch: make it with framework.NewBatchMessage")
		}
		r.check(b)
		return b, msg
	case <-time.After(r.s.Patience):
		r.s.Fatalf("no batch within %s", r.s.Patience)
	}
	return nil, nil
}

func (r *reading) check(b *framework.Batch) {
	r.s.Helper()
	where := fmt.Sprintf("batch %d of partition %d", b.Seq, b.Partition)
	if b.Seq != r.seq[b.Partition] {
		r.s.Fatalf("%s: expected number %d", where, r.seq[b.Partition])
	}
	r.seq[b.Partition]++
	if r.empty++; len(b.Records) > 0 {
		r.empty = 0
	}
	if r.empty > tooMany {
		r.s.Fatalf("%s: the %dth batch without records: without news there is nothing to deliver", where, r.empty)
	}
	at := r.next[b.Partition]
	for i := range b.Records {
		if b.Records[i].Offset < at {
			r.s.Fatalf("%s: offset %d, expected at least %d", where, b.Records[i].Offset, at)
		}
		at = b.Records[i].Offset + 1
	}
	if b.Next < at {
		r.s.Fatalf("%s: Next is %d, expected at least %d", where, b.Next, at)
	}
	r.next[b.Partition] = b.Next
	if r.s.Unpositioned {
		b.Records = slices.DeleteFunc(b.Records, func(record framework.Record) bool {
			again := r.seen[record.ID]
			r.seen[record.ID] = true
			return again
		})
	}
}

// take reads and acknowledges until it has n records, and returns them in the order they came.
func (r *reading) take(n int) []framework.Record {
	r.s.Helper()
	var all []framework.Record
	for len(all) < n {
		b, msg := r.batch()
		all = append(all, b.Records...)
		msg.Ack()
	}
	if len(all) > n {
		r.s.Fatalf("%d records, expected %d", len(all), n)
	}
	return all
}

// nothing checks that no records come.
func (r *reading) nothing(why string) {
	r.s.Helper()
	deadline := time.After(glance)
	for {
		select {
		case msg, ok := <-r.messages:
			if !ok {
				r.s.Fatalf("%s: the channel was closed", why)
			}
			b, _ := framework.BatchOf(msg)
			if len(b.Records) > 0 {
				r.s.Fatalf("%s: got batch %d of partition %d with %d records", why, b.Seq, b.Partition, len(b.Records))
			}
			msg.Ack()
		case <-deadline:
			return
		}
	}
}

// ended waits for the channel to be closed, dropping what still comes.
func (r *reading) ended() {
	r.s.Helper()
	deadline := time.After(r.s.Patience)
	for {
		select {
		case _, ok := <-r.messages:
			if !ok {
				return
			}
		case <-deadline:
			r.s.Fatalf("the channel was not closed within %s", r.s.Patience)
		}
	}
}

// sameOrder checks that the values of got are those of want, each key's in order, or as far as the transport has one.
func (s *suite) sameOrder(want, got []framework.Record) {
	s.Helper()
	if len(got) != len(want) {
		s.Fatalf("%d records, expected %d", len(got), len(want))
	}
	byKey := func(records []framework.Record) map[string][]string {
		m := make(map[string][]string)
		for i := range records {
			value := string(records[i].Value)
			key, _, _ := cut(value)
			m[key] = append(m[key], value)
		}
		return m
	}
	wanted, have := byKey(want), byKey(got)
	for key := range wanted {
		if s.Unordered {
			slices.Sort(wanted[key])
			slices.Sort(have[key])
		}
		if !slices.Equal(wanted[key], have[key]) {
			s.Fatalf("key %s: got %v, expected %v", key, have[key], wanted[key])
		}
	}
}
