package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
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
//     positions, then fetching and delivery begin, also while others wait for their brokers. The group's own commit is
//     handed to Assign and not gone by.
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
	open          context.Context // until it is closed
	shut          context.CancelFunc
	taking        sync.WaitGroup // of parts
	marks         marks
	succession    succession
}

var (
	_ framework.Marker      = (*sharedSubscriber)(nil)
	_ framework.Generations = (*sharedSubscriber)(nil)
	_ framework.EndTeller   = (*sharedSubscriber)(nil)
)

// part is a partition of a group of topics.
type part struct {
	group     int
	partition int32
}

// holding is a part that this member has.
type holding struct {
	begun      chan struct{}         // closed when it is delivered, or will not be; what follows is to be read then
	giveUp     context.CancelFunc    // ends what leads there
	refused    error                 // that Assign gave: there is nothing to revoke
	partitions []*delivery.Partition // that are delivered

	readers    map[string]*reader // by topic; nil until it is known where to begin
	late       bool               // the client has it from before that was known, paused
	committed  map[string]int64   // where the group is, by topic
	marked     map[string]int64   // where it is to be
	member     string             // as whom it was given,
	generation int32              // and in which generation of the group
}

func (t *Transport) shared(config framework.SubscriberConfig) (message.Subscriber, error) {
	s := &sharedSubscriber{
		t: t, config: config, groups: make(map[string]int), held: make(map[part]*holding),
		subscriptions: make(map[string]*delivery.Subscription),
	}
	if config.Group == "" {
		return nil, errors.New("kafka: subscriber: Assignments need a Group")
	}
	if t.config.Group != "" { // not that alone: the pipelines of a program would be one group, and share out unlike
		s.config.Group = t.config.Group + "." + config.Group
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
	s.open, s.shut = context.WithCancel(context.Background())
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
	c.fatal, c.has, c.marked = s.fail, s.has, s.marked
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

// fail delivers an error by which this member cannot be in the group.
func (s *sharedSubscriber) fail(err error) {
	topic := s.config.Together[0][0]
	r := newReader(s.consumer, place{topic, 0}, noPosition, noPosition, &s.config)
	r.fail(fmt.Errorf("kafka: group %q: %w%s", s.config.Group, err, needs(err)))
	s.subscriptions[topic].Start(r)
}

// Generation implements framework.Generations: the group numbers its rebalances. What a member that was left out of one
// has is of the last that it took part in.
func (s *sharedSubscriber) Generation(topic string, partition int) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.held[part{s.groups[topic], int32(partition)}]; h != nil {
		return int64(h.generation)
	}
	return 0 // it is none of this member's
}

// End implements framework.EndTeller: fetches tell where their partitions end.
func (s *sharedSubscriber) End(topic string, partition int) (int64, bool) {
	s.mu.Lock()
	c := s.consumer
	s.mu.Unlock()
	if c == nil {
		return 0, false
	}
	return c.end(place{topic, int32(partition)})
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
		s.shut()
		s.taking.Wait()
	})
	return s.Subscriber.Close()
}
