package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
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

	leaving atomic.Bool // this member is to leave the group and to join it anew
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

// marked is up to where the engine has marked a partition. Where it makes its state from elsewhere it may mark what was not
// delivered yet, and then nobody needs that, so it may be gone.
func (s *sharedSubscriber) marked(at place) (position int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.held[part{s.groups[at.topic], at.partition}]; h != nil {
		position = h.marked[at.topic]
	}
	return position
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
			next := s.commit
			if s.marks.leaving.Load() { // it loses all that it could commit
				next = s.leave
			}
			if err := next(); err != nil && !errors.Is(err, kerr.RebalanceInProgress) {
				s.t.config.client.again("kafka: the group's positions were not committed; it is tried again", "group", s.config.Group, "error", err)
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

// told is called when the group has told what this member has now. What it was given under another name is lost: the group
// had forgotten it in the midst of a join and let it in again, and others may have had that meanwhile. The client does
// not take it for lost when it is given it again, and goes on with it. So this member leaves the group: the client hears of
// that with its next heartbeat, gives up all that it has, and joins anew.
func (s *sharedSubscriber) told(ctx context.Context, client *kgo.Client, _ map[string][]int32) {
	all := make(map[string][]int32)
	s.mu.Lock()
	for p := range s.held {
		for _, topic := range s.config.Together[p.group] {
			all[topic] = append(all[topic], p.partition)
		}
	}
	s.mu.Unlock()
	forgotten, _ := s.forgotten(client, all)
	if len(forgotten) == 0 {
		return
	}
	s.t.config.Logger.Warn("kafka: the group had forgotten this member, and others may have gone on with partitions that it has again:"+
		" it gives them up and joins anew", "group", s.config.Group)
	s.marks.leaving.Store(true)
	s.lost(ctx, client, forgotten)
}

// leave leaves the group, unless it has; not in the midst of a join, whose answer would take it for forgotten again.
func (s *sharedSubscriber) leave() error {
	member, generation := s.consumer.client.GroupMetadata()
	ctx, cancel := context.WithTimeout(context.Background(), s.t.config.RebalanceTimeout/10)
	defer cancel()
	if err := s.heartbeat(ctx, member, generation); errors.Is(err, kerr.UnknownMemberID) || errors.Is(err, kerr.FencedInstanceID) {
		return nil // the client is about to hear of it, too
	} else if err != nil {
		return err
	}
	if err := s.putOut(ctx, member, s.t.config.InstanceID); err != nil {
		return fmt.Errorf("leave the group, which had forgotten this member: %w", err)
	}
	return nil
}

// putOut ends the membership of a member; it is no error when it has ended already.
func (s *sharedSubscriber) putOut(ctx context.Context, member, instance string) error {
	one := kmsg.NewLeaveGroupRequestMember()
	one.MemberID = member
	if instance != "" {
		one.InstanceID = &instance
	}
	ask := kmsg.NewPtrLeaveGroupRequest()
	ask.Group, ask.MemberID, ask.Members = s.config.Group, member, append(ask.Members, one)
	answer, err := ask.RequestWith(ctx, s.consumer.client)
	if err == nil {
		err = kerr.ErrorForCode(answer.ErrorCode)
		for _, m := range answer.Members {
			err = errors.Join(err, kerr.ErrorForCode(m.ErrorCode))
		}
	}
	if errors.Is(err, kerr.UnknownMemberID) {
		return nil
	}
	return err
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
