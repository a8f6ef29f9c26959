package kafka

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// revoked gives partitions back. What Assignments may take of the rebalance timeout leaves a part for what follows.
//
// The client also calls it when the group had forgotten this member, which then was let in anew, under another name:
// what it had was given to others long ago, and is lost.
func (s *sharedSubscriber) revoked(ctx context.Context, client *kgo.Client, topics map[string][]int32) {
	forgotten, topics := s.forgotten(client, topics)
	if len(forgotten) > 0 {
		s.lost(ctx, client, forgotten)
	}
	limit := s.t.config.RebalanceTimeout
	ctx, cancel := context.WithTimeout(context.Background(), limit*7/10)
	defer cancel()
	s.each(topics, func(p part, h *holding) {
		s.stop(p, h)
		if h.refused == nil {
			if err := s.config.Assignments.Revoke(ctx, p.group, int(p.partition)); err != nil {
				s.log(p, "a partition is given back with an error", err)
			}
		}
		s.settle(p, h, min(patience, limit/10))
	}, func() {
		if err := s.commit(); err != nil {
			s.t.config.Logger.Warn("kafka: the group's positions were not committed: the next owner sends some outputs again",
				"group", s.config.Group, "error", err)
		}
	})
}

// forgotten tells which of the partitions were given to this member under another name, and which were not.
func (s *sharedSubscriber) forgotten(client *kgo.Client, topics map[string][]int32) (forgotten, others map[string][]int32) {
	member, _ := client.GroupMetadata()
	forgotten, others = map[string][]int32{}, map[string][]int32{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for topic, partitions := range topics {
		for _, partition := range partitions {
			to := others
			if h := s.held[part{s.groups[topic], partition}]; h != nil && h.member != member {
				to = forgotten
			}
			to[topic] = append(to[topic], partition)
		}
	}
	return forgotten, others
}

// lostAll is called when the client has given up all that it has.
func (s *sharedSubscriber) lostAll(ctx context.Context, client *kgo.Client, topics map[string][]int32) {
	s.marks.leaving.Store(false)
	s.lost(ctx, client, topics)
}

// lost lets go of partitions that another member may have already.
func (s *sharedSubscriber) lost(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
	s.each(topics, func(p part, h *holding) {
		s.stop(p, h)
		if h.refused == nil {
			s.config.Assignments.Lose(p.group, int(p.partition))
		}
		s.settle(p, h, patience)
	}, func() {})
}

// patience is how long is waited for delivered batches to be settled once Assignments are told.
const patience = 5 * time.Second

// settle waits until all that was delivered of a part is settled, so that it is before the part is delivered again.
func (s *sharedSubscriber) settle(p part, h *holding, limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for _, partition := range h.partitions {
		if err := partition.Drain(ctx); err != nil {
			s.log(p, "batches of a partition that is given back are neither acknowledged nor refused", err)
			return
		}
	}
}

func (s *sharedSubscriber) log(p part, what string, err error) {
	s.t.config.Logger.Error("kafka: "+what, "group", s.config.Group, "partition", p.partition,
		"topics", strings.Join(s.config.Together[p.group], ","), "error", err)
}

// each ends the holdings of topics, side by side, and then calls last before it forgets them.
func (s *sharedSubscriber) each(topics map[string][]int32, end func(part, *holding), last func()) {
	byPartition := make(map[string]map[int32]bool, len(topics))
	for topic, partitions := range topics {
		byPartition[topic] = make(map[int32]bool, len(partitions))
		for _, p := range partitions {
			byPartition[topic][p] = true
		}
	}
	all := parts(s, byPartition)
	var ending sync.WaitGroup
	for _, p := range all {
		s.mu.Lock()
		h := s.held[p]
		s.mu.Unlock()
		if h != nil {
			ending.Go(func() { end(p, h) })
		}
	}
	ending.Wait()
	if len(all) > 0 {
		last()
	}
	s.forget(all...)
}

// stop ends delivery, or what leads to it.
func (s *sharedSubscriber) stop(p part, h *holding) {
	h.giveUp()
	<-h.begun
	for _, partition := range h.partitions {
		partition.Stop()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, topic := range s.config.Together[p.group] {
		if h.late {
			s.consumer.resume(place{topic, p.partition}) // a pause would outlast it
		}
	}
}
