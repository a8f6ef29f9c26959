package kafka

import (
	"cmp"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// balancer shares out partitions so that partition n of all topics of a group of topics (of a stage) goes to one
// member. It runs in the leader of a consumer group; all members must run the same pipelines, since the leader goes by
// its own groups.
//
// A group's partitions are spread evenly over the members; over all groups, nobody is given more than its part while
// another has less. A member keeps what it has as far as that allows. Partitions that move are taken from the old
// owner in one rebalance and given to the new one in the next (cooperative), so all others are read on meanwhile.
type balancer struct {
	kgo.GroupBalancer // its encoding of what a member has and is given
	together          [][]string
}

// protocol names how this balancer shares out: members that do not do it alike cannot be in one consumer group.
const protocol = "millrace-together"

func newBalancer(together [][]string) *balancer {
	return &balancer{kgo.CooperativeStickyBalancer(), together}
}

// ProtocolName implements kgo.GroupBalancer.
func (b *balancer) ProtocolName() string { return protocol }

// MemberBalancer implements kgo.GroupBalancer.
func (b *balancer) MemberBalancer(members []kmsg.JoinGroupResponseMember) (kgo.GroupMemberBalancer, map[string]struct{}, error) {
	all, err := kgo.NewConsumerBalancer(b, members)
	return all, all.MemberTopics(), err
}

// Balance implements kgo.ConsumerBalancerBalance.
func (b *balancer) Balance(all *kgo.ConsumerBalancer, topics map[string]int32) kgo.IntoSyncAssignment {
	var members []member
	all.EachMember(func(m *kmsg.JoinGroupResponseMember, meta *kmsg.ConsumerMemberMetadata) {
		members = append(members, newMember(m, meta))
	})
	share(members, b.together, topics)
	plan := all.NewPlan()
	for i := range members {
		for topic, partitions := range members[i].given {
			plan.AddPartitions(members[i].joined, topic, partitions)
		}
	}
	plan.AdjustCooperative(all)
	return plan
}

// member is a member of a consumer group while partitions are shared out.
type member struct {
	joined     *kmsg.JoinGroupResponseMember
	topics     []string
	owned      map[place]bool // what it had
	generation int32          // in which it had that
	given      map[string][]int32
	total      int // partitions of groups that it was given
}

func newMember(m *kmsg.JoinGroupResponseMember, meta *kmsg.ConsumerMemberMetadata) member {
	is := member{joined: m, topics: meta.Topics, generation: meta.Generation, owned: map[place]bool{}, given: map[string][]int32{}}
	for _, t := range meta.OwnedPartitions {
		for _, p := range t.Partitions {
			is.owned[place{t.Topic, p}] = true
		}
	}
	return is
}

// share gives the partitions of all groups of topics to members.
func share(members []member, together [][]string, topics map[string]int32) {
	all := 0
	for _, group := range together {
		all += int(most(group, topics))
	}
	fair := (all + len(members) - 1) / max(len(members), 1)
	for _, group := range together {
		if n := most(group, topics); n > 0 {
			shareGroup(members, group, topics, n, fair)
		}
	}
}

// most is how many partitions the topics of a group have. They should have equally many.
func most(group []string, topics map[string]int32) (n int32) {
	for _, topic := range group {
		n = max(n, topics[topic])
	}
	return n
}

func shareGroup(members []member, group []string, topics map[string]int32, n int32, fair int) {
	var takers []*member
	for i := range members {
		if !slices.ContainsFunc(group, func(topic string) bool { return !slices.Contains(members[i].topics, topic) }) {
			takers = append(takers, &members[i])
		}
	}
	if len(takers) == 0 {
		return
	}
	had := owners(takers, group[0], n)
	base, extra := int(n)/len(takers), int(n)%len(takers)
	// Who gets one more: not who has its part by other groups, rather who need not give one away.
	slices.SortStableFunc(takers, func(a, b *member) int {
		return cmp.Or(boolOrder(a.total+base >= fair, b.total+base >= fair), cmp.Compare(len(had[b]), len(had[a])), cmp.Compare(a.total, b.total))
	})
	taken := make([]bool, n)
	room := make([]int, len(takers))
	for i, m := range takers {
		room[i] = base
		if i < extra {
			room[i]++
		}
		for _, p := range had[m][:min(room[i], len(had[m]))] {
			m.give(group, topics, p)
			taken[p] = true
			room[i]--
		}
	}
	for p := range n {
		if taken[p] {
			continue
		}
		i := slices.IndexFunc(room, func(left int) bool { return left > 0 })
		takers[i].give(group, topics, p)
		room[i]--
	}
}

// owners tells which partitions of a group each member had. When two say so, the later generation counts.
func owners(takers []*member, topic string, n int32) map[*member][]int32 {
	had := make(map[*member][]int32)
	for p := range n {
		var owner *member
		for _, m := range takers {
			if m.owned[place{topic, p}] && (owner == nil || m.generation > owner.generation) {
				owner = m
			}
		}
		if owner != nil {
			had[owner] = append(had[owner], p)
		}
	}
	return had
}

func (m *member) give(group []string, topics map[string]int32, partition int32) {
	m.total++
	for _, topic := range group {
		if partition < topics[topic] {
			m.given[topic] = append(m.given[topic], partition)
		}
	}
}

func boolOrder(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
