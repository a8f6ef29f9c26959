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
//
// One that cannot begin yet, as one that has no leader, holds up the others for a moment only: then the client has it as
// well, at an offset that is none and paused, until it is known where it begins.
func (s *sharedSubscriber) assigned(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	all := parts(s, offsets)
	holdings := make([]*holding, len(all))
	for i, p := range all {
		s.mu.Lock()
		holdings[i] = s.held[p]
		s.mu.Unlock()
		if holdings[i] == nil { // else the group asks again, since it was interrupted
			holdings[i] = s.take(p, offsets)
		}
	}
	patience, cancel := context.WithTimeout(ctx, oldestPatience)
	defer cancel()
	from := make(map[string]map[int32]kgo.Offset)
	for i, p := range all {
		select {
		case <-holdings[i].begun:
		case <-patience.Done():
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		for topic, at := range s.offsets(p, holdings[i]) {
			if from[topic] == nil {
				from[topic] = make(map[int32]kgo.Offset)
			}
			from[topic][p.partition] = kgo.NewOffset().At(at)
		}
	}
	return from, nil
}

// take begins to take over one part. That goes on when the group is balanced anew: the part is this member's until it is
// given back.
func (s *sharedSubscriber) take(p part, offsets map[string]map[int32]kgo.Offset) *holding {
	committed := make(map[string]int64)
	for _, topic := range s.config.Together[p.group] {
		if offset, ok := offsets[topic][p.partition]; ok {
			if at := offset.EpochOffset().Offset; at >= 0 {
				committed[topic] = at
			}
		}
	}
	h := &holding{committed: committed, marked: make(map[string]int64), begun: make(chan struct{})}
	h.member, h.generation = s.consumer.client.GroupMetadata()
	s.keepName(h.member)
	var ctx context.Context
	ctx, h.giveUp = context.WithCancel(s.open)
	told := maps.Clone(committed)
	s.mu.Lock()
	s.held[p] = h // before Assign: what is opened there may mark at once
	s.mu.Unlock()
	s.taking.Go(func() {
		defer close(h.begun)
		h.refused = s.config.Assignments.Assign(ctx, p.group, int(p.partition), told)
		if h.refused == nil || ctx.Err() == nil {
			s.begin(ctx, p, h)
		}
	})
	return h
}

// begin begins to deliver what was taken over. What fails is delivered in place of the partition's records; what passes by
// itself is waited for, until the part is given back.
func (s *sharedSubscriber) begin(ctx context.Context, p part, h *holding) {
	topics := s.config.Together[p.group]
	readers := make(map[string]*reader)
	for _, topic := range topics {
		at, r, failure := place{topic, p.partition}, span{}, h.refused
		if failure == nil {
			r, failure = s.await(ctx, at)
		}
		if failure != nil && ctx.Err() != nil {
			return
		}
		if failure != nil {
			r = span{start: noPosition, end: noPosition}
		}
		readers[topic] = newReader(s.consumer, at, r.start, r.end, &s.config)
		if failure != nil {
			readers[topic].fail(fmt.Errorf("kafka: take over partition %d of %q: %w", p.partition, topic, failure))
		}
	}
	for _, topic := range topics {
		s.consumer.add(readers[topic])
		h.partitions = append(h.partitions, s.subscriptions[topic].Start(readers[topic]))
	}
	s.mu.Lock()
	h.readers = readers
	late := h.late
	s.mu.Unlock()
	if !late {
		return
	}
	from := s.offsets(p, h)
	if s.consumer.move(ctx, p.partition, from) {
		for topic := range from {
			s.consumer.resume(place{topic, p.partition})
		}
	}
}

// offsets are where the client is to read a part from, without what failed. One that has not begun yet is paused.
func (s *sharedSubscriber) offsets(p part, h *holding) map[string]int64 {
	from := make(map[string]int64)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, topic := range s.config.Together[p.group] {
		if h.readers == nil {
			s.consumer.pause(place{topic, p.partition})
			h.late, from[topic] = true, 0
		} else if at := h.readers[topic].fetched(); at != noPosition {
			from[topic] = at
		}
	}
	return from
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
