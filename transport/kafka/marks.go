package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
	ctx, cancel := context.WithTimeout(context.Background(), s.t.config.RebalanceTimeout/10)
	defer cancel()
	member, _ := s.consumer.client.GroupMetadata()
	s.mu.Lock()
	told := s.name == member // else what it had may be another's, and it is about to hear of that
	s.mu.Unlock()
	if told && s.holdsAsAnother(member) {
		if err := s.adopt(ctx, member); err != nil {
			return err
		}
	}
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

// told is called when the group has told what this member has now, under its present name.
func (s *sharedSubscriber) told(_ context.Context, client *kgo.Client, _ map[string][]int32) {
	member, _ := client.GroupMetadata()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.name = member
}

// adopt makes what this member had under another name, and has been left, its own again, when nobody has gone on from where
// it committed. committing is held.
func (s *sharedSubscriber) adopt(ctx context.Context, member string) error {
	group, err := s.t.admin.FetchOffsets(ctx, s.config.Group)
	if err != nil {
		return fmt.Errorf("of partitions that this member had before the group forgot it: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, h := range s.held {
		if h.member == member {
			continue
		}
		own := true
		for _, topic := range s.config.Together[p.group] {
			at, ok := group.Lookup(topic, p.partition)
			committed, known := h.committed[topic]
			if ok && at.Metadata == h.member { // the client names the member there: a commit whose answer was lost
				h.committed[topic] = at.At
				continue
			}
			own = own && ok == known && (!ok || at.At == committed)
		}
		switch {
		case own:
			h.member = member
		case !h.left:
			h.left = true
			s.t.config.Logger.Warn("kafka: the group had forgotten this member, and another has gone on with a partition that it has again:"+
				" what is processed of it here is not committed, and its outputs are sent twice, until it moves or this process is started anew",
				"group", s.config.Group, "partition", p.partition, "topics", strings.Join(s.config.Together[p.group], ","))
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
