package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/internal/delivery"
)

// sharedSubscriber is one member of a consumer group. The client's callbacks, which do not overlap, carry the protocol:
//
//  1. The group assigns partitions. For each partition of a group of topics: Assignments.Assign, then Start tells the
//     positions, then fetching and delivery begin. The group's own commit is handed to Assign and not gone by.
//  2. The group wants partitions back. Their delivery stops; Assignments.Revoke; when all that was delivered is settled,
//     what was marked is committed, and the group may give them to another.
//  3. The group says that they are lost: Assignments.Lose, and nothing is committed.
type sharedSubscriber struct {
	*delivery.Subscriber
	t      *Transport
	config framework.SubscriberConfig
	groups map[string]int // of topics, by topic

	mu            sync.Mutex
	subscriptions map[string]*delivery.Subscription
	consumer      *consumer
	held          map[part]*holding
	closed        sync.Once
	marks         marks
	succession    succession
}

var (
	_ framework.Marker      = (*sharedSubscriber)(nil)
	_ framework.Generations = (*sharedSubscriber)(nil)
)

// part is a partition of a group of topics.
type part struct {
	group     int
	partition int32
}

// holding is a part that this member has.
type holding struct {
	readers    map[string]*reader // by topic; nil until it is known where to begin
	partitions []*delivery.Partition
	committed  map[string]int64 // where the group is, by topic
	marked     map[string]int64 // where it is to be
	member     string           // as whom it was given
	refused    error            // that Assign gave: there is nothing to revoke
}

// patience is how long is waited for delivered batches to be settled once Assignments are told.
const patience = 5 * time.Second

func (t *Transport) shared(config framework.SubscriberConfig) (message.Subscriber, error) {
	s := &sharedSubscriber{
		t: t, config: config, groups: make(map[string]int), held: make(map[part]*holding),
		subscriptions: make(map[string]*delivery.Subscription),
	}
	if config.Group == "" {
		return nil, errors.New("kafka: subscriber: Assignments need a Group")
	}
	for i, group := range config.Together {
		for _, topic := range group {
			if _, ok := s.groups[topic]; ok {
				return nil, fmt.Errorf("kafka: subscriber: topic %q is in Together twice", topic)
			}
			s.groups[topic] = i
		}
	}
	s.Subscriber = delivery.NewSubscriber(config, nil)
	return s, nil
}

// Subscribe delivers what this member is assigned of a topic. With the last topic of Together it joins the group.
func (s *sharedSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.groups[topic]; !ok {
		return nil, fmt.Errorf("kafka: subscribe to %q: it is not in SubscriberConfig.Together", topic)
	}
	if s.subscriptions[topic] != nil {
		return nil, fmt.Errorf("kafka: subscribe to %q: a member of a group subscribes once", topic)
	}
	if _, err := s.t.partitions(ctx, topic); err != nil {
		return nil, err
	}
	subscription, err := s.Begin(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	s.subscriptions[topic] = subscription
	if len(s.subscriptions) == len(s.groups) {
		if err := s.join(ctx); err != nil {
			return nil, err
		}
	}
	return subscription.Messages(), nil
}

// join becomes a member of the group.
func (s *sharedSubscriber) join(ctx context.Context) error {
	topics := make([]string, 0, len(s.groups))
	for _, group := range s.config.Together {
		count := 0
		for i, topic := range group {
			n, err := s.t.partitions(ctx, topic)
			if err != nil {
				return err
			}
			if i > 0 && n != count {
				return fmt.Errorf("kafka: topics %q and %q are read together, but have %d and %d partitions", group[0], topic, count, n)
			}
			count = n
		}
		topics = append(topics, group...)
	}
	c, err := s.t.newConsumer(append(s.t.config.membership(s.config.Group), kgo.DisableAutoCommit(), kgo.ConsumeTopics(topics...),
		kgo.Balancers(newBalancer(s.config.Together)), kgo.AdjustFetchOffsetsFn(s.assigned),
		kgo.OnPartitionsAssigned(s.told), kgo.OnPartitionsRevoked(s.revoked), kgo.OnPartitionsLost(s.lostAll))...)
	if err != nil {
		return err
	}
	c.fatal, c.has = s.fail, s.has
	s.consumer = c
	c.begin()
	s.keepMarks()
	s.succeed()
	return nil
}

// membership is how this program is a member of a group.
func (c *Config) membership(group string) []kgo.Opt {
	options := []kgo.Opt{
		// What was polled is with its reader before the partition may go; else it could come to a later one's.
		kgo.BlockRebalanceOnPoll(),
		kgo.ConsumerGroup(group),
		kgo.SessionTimeout(c.SessionTimeout), kgo.RebalanceTimeout(c.RebalanceTimeout),
		kgo.HeartbeatInterval(min(3*time.Second, c.SessionTimeout/4)),
	}
	if c.InstanceID != "" {
		options = append(options, kgo.InstanceID(c.InstanceID))
	}
	return options
}

// parts are those that the topics' partitions belong to, in order.
func parts[V any](s *sharedSubscriber, topics map[string]map[int32]V) []part {
	seen := map[part]bool{}
	var all []part
	for topic, partitions := range topics {
		for partition := range partitions {
			p := part{s.groups[topic], partition}
			if !seen[p] {
				seen[p] = true
				all = append(all, p)
			}
		}
	}
	slices.SortFunc(all, func(a, b part) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.partition, b.partition))
	})
	return all
}

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
	if from, known := s.config.Start(at.topic, int(at.partition)); known && from < r.start && !s.has(ctx, at) {
		return span{from, r.end}, nil // the next owner has let go of it; fetching tells, unless the group does before
	}
	return r, s.t.begin(ctx, &r, at, s.config.Start)
}

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
		h.stop()
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

// has tells whether the group still counts this member as the one that has a partition. One that was silent for too long
// hears that it is not only when it asks; until then it may want records that the next owner has let go of.
func (s *sharedSubscriber) has(ctx context.Context, at place) bool {
	member, generation := s.consumer.client.GroupMetadata()
	s.mu.Lock()
	h := s.held[part{s.groups[at.topic], at.partition}]
	s.mu.Unlock()
	if h == nil || h.member != member {
		return false
	}
	return s.heartbeat(ctx, member, generation) == nil
}

// heartbeat asks the group's coordinator, which knows its members and their generation.
func (s *sharedSubscriber) heartbeat(ctx context.Context, member string, generation int32) error {
	ask := kmsg.NewPtrHeartbeatRequest()
	ask.Group, ask.MemberID, ask.Generation = s.config.Group, member, generation
	if id := s.t.config.InstanceID; id != "" {
		ask.InstanceID = &id
	}
	answer, err := ask.RequestWith(ctx, s.consumer.client)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(answer.ErrorCode)
}

// Member implements framework.Generations. One that has been let in again under another name, and still holds what it had
// under the former, is none. A generation that is over tells nothing: this member may be about to hear of the next one.
func (s *sharedSubscriber) Member(ctx context.Context) (bool, error) {
	member, generation := s.consumer.client.GroupMetadata()
	if s.holdsAsAnother(member) {
		return false, nil
	}
	err := s.heartbeat(ctx, member, generation)
	switch {
	case errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.FencedInstanceID):
		return false, nil
	case err != nil && !errors.Is(err, kerr.RebalanceInProgress): // which has not taken anything from it yet
		return false, framework.Transient(fmt.Errorf("kafka: ask group %q for its members: %w", s.config.Group, err))
	}
	return true, nil
}

// holdsAsAnother tells whether this member holds anything that it was given under another name.
func (s *sharedSubscriber) holdsAsAnother(member string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.held {
		if h.member != member {
			return true
		}
	}
	return false
}

// lostAll is called when the client has given up all that it has.
func (s *sharedSubscriber) lostAll(ctx context.Context, client *kgo.Client, topics map[string][]int32) {
	s.marks.leaving.Store(false)
	s.lost(ctx, client, topics)
}

// lost lets go of partitions that another member may have already.
func (s *sharedSubscriber) lost(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
	s.each(topics, func(p part, h *holding) {
		h.stop()
		if h.refused == nil {
			s.config.Assignments.Lose(p.group, int(p.partition))
		}
		s.settle(p, h, patience)
	}, func() {})
}

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

// stop ends delivery.
func (h *holding) stop() {
	for _, p := range h.partitions {
		p.Stop()
	}
}

// fail delivers an error by which this member cannot be in the group.
func (s *sharedSubscriber) fail(err error) {
	topic := s.config.Together[0][0]
	r := newReader(s.consumer, place{topic, 0}, noPosition, noPosition, &s.config)
	r.fail(fmt.Errorf("kafka: group %q: %w%s", s.config.Group, err, needs(err)))
	s.subscriptions[topic].Start(r)
}

// Generation implements framework.Generations: the group numbers its rebalances. A member that was left out of one has
// the number of the last that it took part in.
func (s *sharedSubscriber) Generation() int64 {
	_, generation := s.consumer.client.GroupMetadata()
	return int64(generation)
}

// Close gives all partitions back and leaves the group, then ends delivery.
func (s *sharedSubscriber) Close() error {
	s.closed.Do(func() {
		s.mu.Lock()
		c := s.consumer
		s.mu.Unlock()
		if c != nil {
			s.marks.stop()
			<-s.marks.stopped
			s.succession.end()
			c.close()
		}
	})
	return s.Subscriber.Close()
}
