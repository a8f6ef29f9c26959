package kafka

import (
	"context"
	"fmt"
	"maps"
	"math"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
)

// assigned takes over partitions and tells the client where to read them from. The offsets are the group's commits.
func (s *sharedSubscriber) assigned(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	from := make(map[string]map[int32]kgo.Offset)
	for _, p := range parts(s, offsets) {
		s.mu.Lock()
		h := s.held[p]
		s.mu.Unlock()
		var err error
		if h == nil { // else the group asks again, since it was interrupted
			h, err = s.take(ctx, p, offsets)
		}
		if err == nil && h.readers == nil {
			err = s.begin(ctx, p, h)
		}
		if err != nil {
			return nil, err
		}
		for topic, r := range h.readers {
			if at := r.fetched(); at != noPosition {
				if from[topic] == nil {
					from[topic] = make(map[int32]kgo.Offset)
				}
				from[topic][p.partition] = kgo.NewOffset().At(at)
			}
		}
	}
	return from, nil
}

// take has the engine take over one part. There is an error only when the group changes its mind meanwhile.
func (s *sharedSubscriber) take(ctx context.Context, p part, offsets map[string]map[int32]kgo.Offset) (*holding, error) {
	committed := make(map[string]int64)
	for _, topic := range s.config.Together[p.group] {
		if offset, ok := offsets[topic][p.partition]; ok {
			if at := offset.EpochOffset().Offset; at >= 0 {
				committed[topic] = at
			}
		}
	}
	h := &holding{committed: committed, marked: make(map[string]int64)}
	h.member, _ = s.consumer.client.GroupMetadata()
	s.keepName(h.member)
	s.mu.Lock()
	s.held[p] = h // before Assign: what is opened there may mark at once
	s.mu.Unlock()
	h.refused = s.config.Assignments.Assign(ctx, p.group, int(p.partition), maps.Clone(committed))
	if h.refused != nil && ctx.Err() != nil {
		s.forget(p)
		return nil, h.refused
	}
	return h, nil
}

// begin begins to deliver what was taken over. What fails is delivered in place of the partition's records; what passes by
// itself is waited for. There is an error only when the group changes its mind meanwhile: then the part is given back like
// any, or kept, and begins in the next session.
func (s *sharedSubscriber) begin(ctx context.Context, p part, h *holding) error {
	readers := make(map[string]*reader)
	for _, topic := range s.config.Together[p.group] {
		at, r, failure := place{topic, p.partition}, span{}, h.refused
		if failure == nil {
			r, failure = s.await(ctx, at)
		}
		if failure != nil && ctx.Err() != nil {
			return failure
		}
		if failure != nil {
			r = span{start: noPosition, end: noPosition}
		}
		readers[topic] = newReader(s.consumer, at, r.start, r.end, &s.config)
		if failure != nil {
			readers[topic].fail(fmt.Errorf("kafka: take over partition %d of %q: %w", p.partition, topic, failure))
		}
	}
	h.readers = readers
	for _, topic := range s.config.Together[p.group] {
		s.consumer.add(readers[topic])
		h.partitions = append(h.partitions, s.subscriptions[topic].Start(readers[topic]))
	}
	return nil
}

// await asks where to read a partition from, again and again while brokers are away.
func (s *sharedSubscriber) await(ctx context.Context, at place) (span, error) {
	for {
		r, err := s.start(ctx, at)
		if framework.ClassOf(err) != framework.ClassTransient || ctx.Err() != nil {
			return r, err
		}
		s.t.config.Logger.Warn("kafka: a partition cannot be taken over yet; it is tried again", "group", s.config.Group,
			"topic", at.topic, "partition", at.partition, "error", err)
	}
}

// noPosition is that of a failure to read a partition at all: behind everything, so that nobody takes it for done.
const noPosition = math.MaxInt64

// start tells where to read a partition from.
func (s *sharedSubscriber) start(ctx context.Context, at place) (span, error) {
	n, err := s.t.find(ctx, at.topic)
	if err != nil {
		return span{}, err
	}
	if int(at.partition) >= n {
		return span{}, fmt.Errorf("it has %d partitions", n)
	}
	var r span // of no other partition, which may have no leader
	if r.start, r.end, err = s.t.Span(ctx, at.topic, int(at.partition)); err != nil {
		return span{}, err
	}
	if from, known := s.config.Start(at.topic, int(at.partition)); known && from < r.start {
		switch {
		case r.start <= s.marked(at):
			return r, nil
		case !s.has(ctx, at):
			return span{from, r.end}, nil // the next owner has let go of it; fetching tells, unless the group does before
		}
	}
	return r, s.t.begin(ctx, &r, at, s.config.Start)
}
