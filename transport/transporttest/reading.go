package transporttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/framework"
)

func cut(value string) (key, rank string, ok bool) { return strings.Cut(value, "/") }

func noTopic(s *suite) {
	_, err := s.Transport.Topic(s.Context(), "no-such-topic")
	if !errors.Is(err, framework.ErrNoTopic) {
		s.Fatalf("Topic of an unknown name: %v, expected an error that wraps framework.ErrNoTopic", err)
	}
	if !strings.Contains(err.Error(), "no-such-topic") {
		s.Errorf("the error does not name the topic: %v", err)
	}
}

func topicInfo(s *suite) {
	topic := s.create("events")
	s.write(topic, records(0, 10, 3))
	info, err := s.Transport.Topic(s.Context(), topic)
	s.must(err)
	if info.Partitions != s.Partitions || info.Positioned == s.Unpositioned {
		s.Errorf("%+v, expected %d partitions, positions: %t", info, s.Partitions, !s.Unpositioned)
	}
	if info.Bounded != s.Whole {
		s.Errorf("%+v, expected Bounded %t", info, s.Whole)
	}
}

func createTopic(s *suite) {
	creator, ok := s.Transport.(framework.TopicCreator)
	if !ok {
		s.Skip("the transport is no framework.TopicCreator")
	}
	const other = 5
	n := min(3, s.Partitions)
	s.must(creator.CreateTopic(s.Context(), "made", n))
	s.must(creator.CreateTopic(s.Context(), "made", n))
	s.must(creator.CreateTopic(s.Context(), "made", 0))
	err := creator.CreateTopic(s.Context(), "made", other)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(n)) || !strings.Contains(err.Error(), fmt.Sprint(other)) {
		s.Errorf("making a topic of %d partitions with %d: %v, expected an error that says both", n, other, err)
	}
	s.must(creator.CreateTopic(s.Context(), "default", 0))
	info, err := s.Transport.Topic(s.Context(), "default")
	s.must(err)
	if info.Partitions < 1 {
		s.Errorf("a topic made with 0 partitions has %d", info.Partitions)
	}
}

func order(s *suite) {
	topic := s.create("events")
	want := records(0, s.many(3000), 50)
	for part := range slices.Chunk(want, 300) {
		s.write(topic, part)
	}
	s.sameOrder(want, s.read(topic, config()).take(len(want)))
}

func batchBounds(s *suite) {
	want := records(0, s.many(500), 20)
	topic := ""
	for i, bound := range []struct{ events, bytes int }{{7, 1 << 20}, {1, 1 << 20}, {1000, 50}} {
		switch {
		case s.Unpositioned: // what one reading has acknowledged does not come again
			topic = s.create(fmt.Sprint("bounds-", i))
			s.write(topic, want)
		case i == 0:
			topic = s.create("events")
			s.write(topic, want)
		}
		r := s.read(topic, config(func(c *framework.SubscriberConfig) {
			c.BatchEvents, c.BatchBytes = bound.events, bound.bytes
		}))
		var got []framework.Record
		for len(got) < len(want) {
			b, msg := r.batch()
			bytes := 0
			for i := range b.Records {
				bytes += len(b.Records[i].Value)
			}
			if n := len(b.Records); n > bound.events || n > 1 && bytes > bound.bytes {
				s.Fatalf("a batch of %d records and %d bytes of values, bounds are %d and %d",
					n, bytes, bound.events, bound.bytes)
			}
			got = append(got, b.Records...)
			msg.Ack()
		}
		s.sameOrder(want, got)
		s.must(r.subscriber.Close())
	}
}

func largeRecord(s *suite) {
	topic := s.create("events")
	want := records(0, 3, 1)
	want[1].Value = append([]byte("k0/"), strings.Repeat("x", 100_000)...)
	s.write(topic, want)
	r := s.read(topic, config(func(c *framework.SubscriberConfig) { c.BatchBytes = 1000 }))
	seen := 0
	for seen < 3 {
		b, msg := r.batch()
		for i := range b.Records {
			if seen++; len(b.Records[i].Value) > 1000 && len(b.Records) > 1 {
				s.Errorf("a record over BatchBytes came in a batch of %d", len(b.Records))
			}
		}
		msg.Ack()
	}
}

func start(s *suite) {
	topic := s.create("events")
	want := records(0, 400, 20)
	s.write(topic, want)

	r := s.read(topic, config(func(c *framework.SubscriberConfig) { c.BatchEvents = 10 }))
	var got []framework.Record
	for len(got) < 150 {
		b, msg := r.batch()
		got = append(got, b.Records...)
		msg.Ack()
	}
	positions := r.next
	s.must(r.subscriber.Close())
	s.restart()

	rest := s.read(topic, config(func(c *framework.SubscriberConfig) {
		c.Start = func(name string, partition int) (int64, bool) {
			if name != topic {
				s.Errorf("Start was asked for topic %q, expected %q", name, topic)
			}
			position, ok := positions[partition]
			return position, ok
		}
	}))
	for partition, position := range positions {
		rest.next[partition] = position
	}
	s.sameOrder(want, append(got, rest.take(len(want)-len(got))...))
	rest.nothing("all was read")
}

// pastTheEnd reads from a position that there is not: another topic's, or one of a topic that was made anew. That is an
// error, of Subscribe or of the first batch, and nothing is delivered.
func pastTheEnd(s *suite) {
	topic := s.create("events")
	s.write(topic, records(0, 20, 5))
	subscriber, err := s.Transport.Subscriber(config(func(c *framework.SubscriberConfig) {
		c.Start = func(string, int) (int64, bool) { return 1000, true }
	}))
	s.must(err)
	defer func() { s.must(subscriber.Close()) }()
	messages, err := subscriber.Subscribe(s.Context(), topic)
	if err != nil {
		if !strings.Contains(err.Error(), "1000") {
			s.Errorf("the error does not name the position: %v", err)
		}
		return
	}
	select {
	case msg := <-messages:
		b, _ := framework.BatchOf(msg)
		if len(b.Records) != 1 || framework.ClassOf(b.Records[0].Err) != framework.ClassFatal || !strings.Contains(b.Records[0].Err.Error(), "1000") {
			s.Errorf("from a position past the end came %+v, expected one record with a fatal error that names the position", b)
		}
		msg.Nack()
	case <-time.After(s.Patience):
		s.Error("a position past the end gave no error")
	}
}

func redelivery(s *suite) {
	topic := s.create("events")
	want := records(0, 100, 5)
	s.write(topic, want)
	r := s.read(topic, config(func(c *framework.SubscriberConfig) { c.BatchEvents = 5 }))
	r.batch() // and nothing is acknowledged
	s.must(r.subscriber.Close())
	s.again(topic, want)
}

func twoTopics(s *suite) {
	first, second := s.create("events"), s.create("others")
	s.write(first, records(0, 50, 5))
	s.write(second, records(1000, 60, 5))
	r := s.read(first, config())
	messages, err := r.subscriber.Subscribe(context.WithoutCancel(s.Context()), second)
	s.must(err)
	other := &reading{s: s, subscriber: r.subscriber, messages: messages, next: map[int]int64{}, seq: map[int]uint64{}, seen: map[string]bool{}}
	s.sameOrder(records(0, 50, 5), r.take(50))
	s.sameOrder(records(1000, 60, 5), other.take(60))
	s.must(r.subscriber.Close())
	r.ended()
	other.ended()
}

// readOutside reads a topic without a subscription: framework.TopicReader.
func readOutside(s *suite) {
	reader, ok := s.Transport.(framework.TopicReader)
	if !ok {
		s.Skip("the transport is no framework.TopicReader")
	}
	topic := s.create("events")
	none := func(framework.Record) error {
		s.Error("a record where there is none")
		return nil
	}
	for partition := range s.Partitions {
		if next, err := reader.Read(s.Context(), topic, partition, 0, none); next != 0 || err != nil {
			s.Errorf("an empty partition is read to %d: %v", next, err)
		}
	}
	want := records(0, s.many(500), 20)
	s.write(topic, want)
	var got []framework.Record
	ends := make([]int64, s.Partitions)
	for partition := range s.Partitions {
		next, err := reader.Read(s.Context(), topic, partition, 0, func(r framework.Record) error {
			if len(got) == 0 { // what comes while it is read is behind the end
				s.write(topic, records(1000, 20, 20))
			}
			if _, rank, _ := cut(string(r.Value)); partition == 0 && len(rank) == 4 {
				s.Errorf("record %s came after Read was called", r.Value)
			}
			got = append(got, r)
			return nil
		})
		s.must(err)
		ends[partition] = next
	}
	late := 0
	got = slices.DeleteFunc(got, func(r framework.Record) bool {
		_, rank, _ := cut(string(r.Value))
		if len(rank) == 4 { // of the later ones, in partitions that were not read yet
			late++
			return true
		}
		return false
	})
	s.sameOrder(want, got)
	again := 0
	for partition, from := range ends {
		_, err := reader.Read(s.Context(), topic, partition, from, func(framework.Record) error { again++; return nil })
		s.must(err)
	}
	if late+again != 20 {
		s.Errorf("%d and then %d of 20 later records", late, again)
	}
	stop := errors.New("enough")
	seen := 0
	next, err := reader.Read(s.Context(), topic, 0, 0, func(framework.Record) error {
		if seen++; seen == 3 {
			return stop
		}
		return nil
	})
	if next != 2 || err != stop { //nolint:errorlint // it is to be this very error
		s.Errorf("stopped at the third record, Read gave %d and %v", next, err)
	}
	if _, err := reader.Read(s.Context(), topic, s.Partitions, 0, none); err == nil || !strings.Contains(err.Error(), topic) {
		s.Errorf("a partition that is not there: %v", err)
	}
	if _, err := reader.Read(s.Context(), s.Prefix+"no-such-topic", 0, 0, none); !errors.Is(err, framework.ErrNoTopic) {
		s.Errorf("a topic that is not there: %v", err)
	}
	ended, cancel := context.WithCancel(s.Context())
	cancel()
	if _, err := reader.Read(ended, topic, 0, 0, none); !errors.Is(err, context.Canceled) {
		s.Errorf("read with a context that is done: %v", err)
	}
}
