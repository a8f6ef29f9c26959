package kafka

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A process that is killed stays a member of its group until its session ends, 45 s by default, and its partitions wait
// for that. Whoever opens its store next knows better, since a store has one process at a time. So the name of
// the member is kept in the store, and the next member puts the last one out.

// succession is what one process on a store leaves to the next.
type succession struct {
	kept      string // the name of this member that the store has; for the client's callbacks only
	stop      context.CancelFunc
	replacing sync.WaitGroup
}

func (n *succession) end() {
	if n.stop != nil {
		n.stop()
	}
	n.replacing.Wait()
}

// succeed begins to put out the last process, if there was one.
func (s *sharedSubscriber) succeed() {
	if last := s.config.Predecessor; last != "" {
		var ctx context.Context
		ctx, s.succession.stop = context.WithTimeout(context.Background(), s.t.config.SessionTimeout)
		s.succession.replacing.Go(func() { s.replace(ctx, last) })
	}
}

// lookEvery is how often the coordinator is asked for the group's members.
const lookEvery = 50 * time.Millisecond

// replace puts out the member that the last process on this store was. It waits until another is in the group or about
// to be: those who join a group that has been left empty wait for more to come (group.initial.rebalance.delay.ms, 3 s).
// What does not succeed in the time of a session has happened by itself then.
func (s *sharedSubscriber) replace(ctx context.Context, last string) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var failed error
	for {
		members, err := s.members(ctx)
		if err == nil && !slices.Contains(members, last) {
			return
		}
		if err == nil && len(members) > 1 {
			if err = s.putOut(ctx, last, ""); err == nil {
				s.t.config.Logger.Info("kafka: the last process that had this store is out of the group", "group", s.config.Group, "member", last)
				return
			}
		}
		if err != nil && ctx.Err() == nil {
			failed = err
		}
		select {
		case <-ctx.Done():
			if failed != nil {
				s.t.config.Logger.Warn("kafka: the last process that had this store could not be put out of the group: "+
					"its partitions had to wait for the end of its session", "group", s.config.Group, "member", last, "error", failed)
			}
			return
		case <-tick.C:
		}
	}
}

// members are the names of those whom the group's coordinator knows, also of those that wait for it to let them in.
func (s *sharedSubscriber) members(ctx context.Context) ([]string, error) {
	described, err := s.t.admin.DescribeGroups(ctx, s.config.Group)
	if err != nil {
		return nil, err
	}
	group, ok := described[s.config.Group]
	if !ok || group.Err != nil {
		return nil, fmt.Errorf("describe the group: %w", group.Err)
	}
	names := make([]string, 0, len(group.Members))
	for _, m := range group.Members {
		names = append(names, m.MemberID)
	}
	return names, nil
}

// keepName keeps the name of this member for the next process on this store.
func (s *sharedSubscriber) keepName(name string) {
	if s.config.KeepMember == nil || name == s.succession.kept {
		return
	}
	if err := s.config.KeepMember(name); err != nil {
		s.t.config.Logger.Warn("kafka: the name of this member is not kept: if it is killed, its partitions wait for the end of its session",
			"group", s.config.Group, "error", err)
		return
	}
	s.succession.kept = name
}
