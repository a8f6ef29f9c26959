package transporttest

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
)

// inFlight holds every batch back until all partitions have as many out as they may, then goes on one
// acknowledgement at a time.
func inFlight(s *suite) {
	const limit = 3
	topic := s.create("events")
	want := records(0, s.many(400), 40)
	s.write(topic, want)
	r := s.read(topic, config(func(c *framework.SubscriberConfig) { c.BatchEvents, c.InFlight = 5, limit }))

	out := make(map[int][]*message.Message)
	var got []framework.Record
	receive := func() *framework.Batch {
		b, msg := r.batch()
		out[b.Partition] = append(out[b.Partition], msg)
		if n := len(out[b.Partition]); n > limit {
			s.Fatalf("partition %d has %d batches out, InFlight is %d", b.Partition, n, limit)
		}
		got = append(got, b.Records...)
		return b
	}
	for range limit * s.Partitions { // 400 records are more than 3 × 5 for each partition
		receive()
		if len(got) == s.AtOnce {
			break
		}
	}
	for partition := range s.Partitions {
		if len(out[partition]) != limit && len(got) != s.AtOnce {
			s.Fatalf("partition %d has %d batches out without acknowledgement, expected %d",
				partition, len(out[partition]), limit)
		}
	}
	select {
	case msg := <-r.messages:
		b, _ := framework.BatchOf(msg)
		s.Fatalf("partition %d delivers batch %d while %d are out", b.Partition, b.Seq, limit)
	case <-time.After(glance):
	}
	out[0][0].Ack()
	out[0] = out[0][1:]
	if b := receive(); b.Partition != 0 {
		s.Fatalf("partition 0 was acknowledged, and partition %d goes on", b.Partition)
	}
	for len(got) < len(want) {
		for partition, messages := range out {
			for _, msg := range messages {
				msg.Ack()
			}
			out[partition] = nil
		}
		receive()
	}
	s.sameOrder(want, got)
}

func refused(s *suite) {
	topic := s.create("events")
	want := records(0, s.many(200), 20)
	s.write(topic, want)
	r := s.read(topic, config(func(c *framework.SubscriberConfig) { c.BatchEvents, c.InFlight = 5, 1 }))
	refused := make(map[int]bool)
	for len(refused) < s.Partitions {
		b, msg := r.batch()
		if refused[b.Partition] {
			s.Fatalf("partition %d goes on after a batch was refused", b.Partition)
		}
		refused[b.Partition] = true
		msg.Nack()
	}
	r.nothing("all partitions were refused")
	s.must(r.subscriber.Close())
	r.ended()
	s.again(topic, want)
}

func caughtUp(s *suite) {
	topic := s.create("events")
	if !s.Whole && !s.Unpositioned {
		r := s.read(topic, config())
		seen := make(map[int]bool)
		for len(seen) < s.Partitions {
			b, msg := r.batch()
			if len(b.Records) > 0 || !b.CaughtUp || b.End {
				s.Fatalf("an empty topic gave %d records, CaughtUp %t, End %t", len(b.Records), b.CaughtUp, b.End)
			}
			seen[b.Partition] = true
			msg.Ack()
		}
		s.must(r.subscriber.Close())
	}
	s.write(topic, records(0, 100, 20))
	r := s.read(topic, config(func(c *framework.SubscriberConfig) { c.BatchEvents = 7 }))
	state := make(map[int]bool)
	for n := 0; n < 100 || !all(state, s.Partitions); {
		b, msg := r.batch()
		n += len(b.Records)
		state[b.Partition] = b.CaughtUp
		msg.Ack()
	}
}

func all(m map[int]bool, n int) bool {
	for _, ok := range m {
		if !ok {
			return false
		}
	}
	return len(m) == n
}

func live(s *suite) {
	topic := s.create("events")
	r := s.read(topic, config())
	var want, got []framework.Record
	for i := range s.many(50) {
		next := records(i*4, 4, 7)
		s.write(topic, next)
		want = append(want, next...)
		got = append(got, r.take(4)...)
	}
	s.sameOrder(want, got)
}

func end(s *suite) {
	if s.Fixture.End == nil && !s.Whole {
		s.Skip("topics do not end: the fixture has no End")
	}
	topic := s.create("events")
	want := records(0, 100, 20)
	s.write(topic, want)
	if s.Fixture.End != nil {
		s.Fixture.End(s, topic)
	}
	r := s.read(topic, config(func(c *framework.SubscriberConfig) { c.BatchEvents = 7 }))
	var got []framework.Record
	ended := make(map[int]bool)
	for len(ended) < s.Partitions {
		b, msg := r.batch()
		if ended[b.Partition] {
			s.Fatalf("partition %d goes on after its end", b.Partition)
		}
		got = append(got, b.Records...)
		if b.End {
			ended[b.Partition] = true
		}
		msg.Ack()
	}
	s.sameOrder(want, got)
	r.nothing("all partitions have ended; the channel stays open")
	positions := r.next
	s.must(r.subscriber.Close())
	r.ended()

	again := s.read(topic, config(func(c *framework.SubscriberConfig) {
		c.Start = func(_ string, partition int) (int64, bool) { return positions[partition], true }
	}))
	for range s.Partitions {
		b, msg := again.batch()
		if len(b.Records) > 0 || !b.End {
			s.Fatalf("started at its end, partition %d gave %d records, End %t", b.Partition, len(b.Records), b.End)
		}
		msg.Ack()
	}
}

func closing(s *suite) {
	topic := s.create("events")
	s.write(topic, records(0, 100, 20))
	r := s.read(topic, config(func(c *framework.SubscriberConfig) { c.BatchEvents = 1 }))
	_, msg := r.batch() // stays out
	s.must(r.subscriber.Close())
	r.ended()
	s.must(r.subscriber.Close())
	if err := msg.Context().Err(); err != nil {
		s.Errorf("Close cancelled the context of a batch that is out: %v", err)
	}
	if _, err := r.subscriber.Subscribe(s.Context(), topic); err == nil {
		s.Error("Subscribe after Close gave no error")
	}
}

// closeUnread closes a subscriber whose batches nobody takes.
func closeUnread(s *suite) {
	topic := s.create("events")
	s.write(topic, records(0, 100, 20))
	r := s.read(topic, config())
	s.must(r.subscriber.Close())
	r.ended()
}

func cancelling(s *suite) {
	topic := s.create("events")
	s.write(topic, records(0, 10, 5))
	subscriber, err := s.Transport.Subscriber(config())
	s.must(err)
	defer func() { s.must(subscriber.Close()) }()
	ctx, cancel := context.WithCancel(s.Context())
	messages, err := subscriber.Subscribe(ctx, topic)
	s.must(err)
	cancel()
	(&reading{s: s, messages: messages}).ended()
}
