package kafka

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// marks commits what is marked to the group, every Config.CommitInterval and when partitions are given back. The
// client's own keeping of marks will not do: it takes the positions from where a partition is read, which are those of
// the engine's store, for the group's, and passes over marks that are not beyond them or come while a partition is
// assigned; the group then seems to be behind until something else is processed.
type marks struct {
	// committing is held from the choice of positions to the brokers' answer: so that none is on its way when its
	// partition is given to another member.
	committing sync.Mutex
	stop       context.CancelFunc
	stopped    chan struct{}
}

// Mark implements framework.Marker.
func (s *sharedSubscriber) Mark(topic string, partition int, position int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	group, known := s.groups[topic]
	h := s.held[part{group, int32(partition)}]
	if !known || h == nil { // the partition is another member's
		return
	}
	h.marked[topic] = max(h.marked[topic], position)
}

// Committed implements framework.Marker.
func (s *sharedSubscriber) Committed(topic string, partition int) (position int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	group, known := s.groups[topic]
	if h := s.held[part{group, int32(partition)}]; known && h != nil {
		position, ok = h.committed[topic]
	}
	return position, ok
}

// keepMarks begins committing.
func (s *sharedSubscriber) keepMarks() {
	ctx, stop := context.WithCancel(context.Background())
	s.marks.stop, s.marks.stopped = stop, make(chan struct{})
	go func() {
		defer close(s.marks.stopped)
		tick := time.NewTicker(s.t.config.CommitInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := s.commit(); err != nil && !errors.Is(err, kerr.RebalanceInProgress) {
				s.t.config.Logger.Warn("kafka: the group's positions were not committed; it is tried again", "group", s.config.Group, "error", err)
			}
		}
	}()
}

// commit commits what is marked and not committed. The group's positions only rise.
func (s *sharedSubscriber) commit() error {
	s.marks.committing.Lock()
	defer s.marks.committing.Unlock()
	offsets := make(map[string]map[int32]kgo.EpochOffset)
	s.mu.Lock()
	for p, h := range s.held {
		for topic, at := range h.marked {
			if committed, ok := h.committed[topic]; ok && at <= committed {
				continue
			}
			if offsets[topic] == nil {
				offsets[topic] = make(map[int32]kgo.EpochOffset)
			}
			offsets[topic][p.partition] = kgo.EpochOffset{Epoch: -1, Offset: at}
		}
	}
	s.mu.Unlock()
	if len(offsets) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.t.config.RebalanceTimeout/10)
	defer cancel()
	var failed error
	s.consumer.client.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, answer *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			failed = err
			return
		}
		for _, topic := range answer.Topics {
			for _, p := range topic.Partitions {
				failed = errors.Join(failed, kerr.ErrorForCode(p.ErrorCode))
			}
		}
	})
	if failed != nil {
		return failed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for topic, partitions := range offsets {
		for partition, at := range partitions {
			s.held[part{s.groups[topic], partition}].committed[topic] = at.Offset // it is not forgotten meanwhile
		}
	}
	return nil
}

// forget lets go of parts, once nothing of them is being committed.
func (s *sharedSubscriber) forget(parts ...part) {
	s.marks.committing.Lock()
	defer s.marks.committing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range parts {
		delete(s.held, p)
	}
}
