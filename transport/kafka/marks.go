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

// commit commits what is marked and not committed. The group's positions only rise: what this member holds under another
// name than its present one may be another's by now, who is further.
func (s *sharedSubscriber) commit() error {
	s.marks.committing.Lock()
	defer s.marks.committing.Unlock()
	member, _ := s.consumer.client.GroupMetadata()
	offsets := make(map[string]map[int32]kgo.EpochOffset)
	s.mu.Lock()
	for p, h := range s.held {
		if h.member != member {
			continue
		}
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
	ctx = kgo.PreCommitFnContext(ctx, func(request *kmsg.OffsetCommitRequest) error { // which may wait for a rebalance
		if request.MemberID != member {
			return errOtherName
		}
		return nil
	})
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

// errOtherName is met while the group lets this member in again that it had forgotten.
var errOtherName = errors.New("the group has given this member another name meanwhile")

// keep is called when the group has told what this member has now. What it had under another name, and keeps, is its own
// again when nobody has gone on from where it committed; else it is lost when it is given back.
func (s *sharedSubscriber) keep(ctx context.Context, client *kgo.Client, _ map[string][]int32) {
	member, _ := client.GroupMetadata()
	if !s.holdsAsAnother(member) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.t.config.RebalanceTimeout/10)
	defer cancel()
	group, err := s.t.admin.FetchOffsets(ctx, s.config.Group)
	if err != nil {
		s.t.config.Logger.Warn("kafka: the group's positions are not known: those of partitions that were kept are not committed",
			"group", s.config.Group, "error", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, h := range s.held {
		same := true
		for _, topic := range s.config.Together[p.group] {
			at, ok := group.Lookup(topic, p.partition)
			committed, known := h.committed[topic]
			same = same && ok == known && (!ok || at.At == committed)
		}
		if same {
			h.member = member
		}
	}
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
