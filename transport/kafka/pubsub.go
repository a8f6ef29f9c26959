package kafka

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/internal/plain"
)

// PubSub is the plain Watermill face: a message.Publisher and message.Subscriber, one message at a time for each
// partition. Its Close does not close the transport.
type PubSub struct {
	t      *Transport
	group  string
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	active sync.WaitGroup
	mu     sync.RWMutex
	closed bool
}

var (
	_ message.Publisher  = (*PubSub)(nil)
	_ message.Subscriber = (*PubSub)(nil)
)

// PubSub makes the plain face of the transport's topics for a consumer group, default Config.Group. Its members share
// the messages of a topic; a new group starts with the oldest. Without a group every subscription receives all
// messages from the oldest on. Records that are gone before they were read are passed over, with a warning in the log.
func (t *Transport) PubSub(group string) *PubSub {
	if group == "" {
		group = t.config.Group
	}
	p := &PubSub{t: t, group: group}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Publish sends messages; it returns when all replicas in sync have them. The CloudEvents metadata key ce_partitionkey
// is the Kafka key; without it the UUID decides the partition. An error may leave some sent.
func (p *PubSub) Publish(topic string, messages ...*message.Message) error {
	if err := p.use(); err != nil {
		return fmt.Errorf("kafka: publish to %q: %w", topic, err)
	}
	defer p.active.Done()
	if len(messages) == 0 {
		return nil
	}
	records, err := plain.Records(messages)
	if err != nil {
		return fmt.Errorf("kafka: publish to %q: %w", topic, err)
	}
	ctx, cancel := context.WithCancel(messages[0].Context())
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	return publisher{p.t}.Publish(ctx, topic, records)
}

// use counts one user more, who calls active.Done.
func (p *PubSub) use() error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.closed {
		return plain.ErrClosed
	}
	p.active.Add(1)
	return nil
}

// Close ends all subscriptions and waits for them and for what is being published. A message that is out and not
// acknowledged is delivered again, to another member or after the next Subscribe.
func (p *PubSub) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.active.Wait()
	return nil
}

// Subscribe delivers the messages of a topic, for each partition one at a time and in order. The context of a message
// ends when it is acknowledged or refused, and with the subscription.
func (p *PubSub) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if err := p.use(); err != nil {
		return nil, fmt.Errorf("kafka: subscribe to %q: %w", topic, err)
	}
	s := &subscription{pubsub: p, topic: topic, out: make(chan *message.Message), members: make(map[int32]*plainMember)}
	s.ctx, s.cancel = context.WithCancel(ctx)
	if err := s.open(ctx); err != nil {
		s.cancel()
		p.active.Done()
		return nil, err
	}
	go func() {
		defer p.active.Done()
		select {
		case <-p.ctx.Done():
		case <-ctx.Done():
		}
		s.cancel()
		s.consumer.close() // leaves the group, which revokes what it has
		s.drop(nil, 0)
		close(s.out)
	}()
	return s.out, nil
}

// subscription is one topic of a PubSub, with a client of its own.
type subscription struct {
	pubsub   *PubSub
	topic    string
	out      chan *message.Message
	ctx      context.Context
	cancel   context.CancelFunc
	consumer *consumer

	mu      sync.Mutex
	members map[int32]*plainMember
}

func (s *subscription) open(ctx context.Context) error {
	t := s.pubsub.t
	starts, err := t.starts(ctx, s.topic, nil)
	if err != nil {
		return err
	}
	s.mu.Lock() // callbacks wait until the consumer is there
	defer s.mu.Unlock()
	var group []kgo.Opt
	if s.pubsub.group != "" {
		group = append(t.config.membership(s.pubsub.group), kgo.AutoCommitMarks(),
			kgo.AutoCommitInterval(t.config.CommitInterval), kgo.ConsumeTopics(s.topic),
			kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.AdjustFetchOffsetsFn(s.assigned),
			kgo.OnPartitionsRevoked(s.revoked), kgo.OnPartitionsLost(s.lost))
	}
	if s.consumer, err = t.newConsumer(group...); err != nil {
		return err
	}
	s.consumer.config.SkipGone = true
	s.consumer.fatal = func(err error) {
		t.config.Logger.Error("kafka: a subscription receives nothing", "topic", s.topic, "group", s.pubsub.group, "error", err)
	}
	s.consumer.begin()
	if group != nil {
		return nil
	}
	offsets := make(map[int32]kgo.Offset, len(starts))
	for i, at := range starts {
		offsets[int32(i)] = kgo.NewOffset().At(at.start)
		s.start(int32(i), at.start)
	}
	s.consumer.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{s.topic: offsets})
	return nil
}

// assigned begins to deliver partitions from the group's commits.
func (s *subscription) assigned(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := make(map[int32]kgo.Offset)
	for partition, offset := range offsets[s.topic] {
		at := offset.EpochOffset().Offset
		if at < 0 {
			var err error
			if at, err = s.consumer.oldest(ctx, s.topic, partition); err != nil {
				return nil, err
			}
		}
		if s.members[partition] == nil {
			s.start(partition, at)
		}
		from[partition] = kgo.NewOffset().At(at)
	}
	return map[string]map[int32]kgo.Offset{s.topic: from}, nil
}

// start begins to deliver a partition; the lock is held.
func (s *subscription) start(partition int32, at int64) {
	r := newReader(s.consumer, place{s.topic, partition}, at, at, &framework.SubscriberConfig{BatchEvents: 1})
	m := &plainMember{subscription: s, reader: r, stop: make(chan struct{}), exited: make(chan struct{})}
	m.ctx, m.cancel = context.WithCancel(s.ctx)
	s.consumer.add(r)
	s.members[partition] = m
	go m.run()
}

func (s *subscription) revoked(_ context.Context, client *kgo.Client, topics map[string][]int32) {
	if len(topics[s.topic]) == 0 {
		return
	}
	s.drop(topics[s.topic], min(s.pubsub.t.config.RebalanceTimeout/2, patience))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := client.CommitMarkedOffsets(ctx); err != nil {
		s.pubsub.t.config.Logger.Warn("kafka: acknowledgements were not committed; their messages are delivered again",
			"topic", s.topic, "group", s.pubsub.group, "error", err)
	}
}

func (s *subscription) lost(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
	s.drop(topics[s.topic], 0)
}

// drop ends the delivery of partitions, nil for all, and waits a while for messages that are out.
func (s *subscription) drop(partitions []int32, wait time.Duration) {
	s.mu.Lock()
	var dropped []*plainMember
	if partitions == nil {
		for p := range s.members {
			partitions = append(partitions, p)
		}
	}
	for _, p := range partitions {
		if m := s.members[p]; m != nil {
			dropped = append(dropped, m)
			delete(s.members, p)
			close(m.stop)
		}
	}
	s.mu.Unlock()
	limit := time.NewTimer(wait)
	defer limit.Stop()
	for _, m := range dropped {
		select {
		case <-m.exited:
		case <-limit.C:
			limit.Reset(0)
		case <-s.ctx.Done():
		}
		m.cancel()
		<-m.exited
	}
}

// plainMember is one subscription's share in one partition.
type plainMember struct {
	*subscription
	reader *reader
	stop   chan struct{} // no further message
	exited chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
}

func (m *plainMember) run() {
	defer close(m.exited)
	defer m.reader.Close()
	for {
		b, err := m.reader.Next(m.ctx)
		if err != nil {
			m.pubsub.t.config.Logger.Error("kafka: a partition is read no further", "topic", m.topic,
				"partition", m.reader.at.partition, "group", m.pubsub.group, "error", err)
		}
		if b == nil || err != nil {
			select {
			case <-m.reader.Wake():
				continue
			case <-m.stop:
			case <-m.ctx.Done():
			}
			return
		}
		for i := range b.Records {
			for !plain.Offer(m.ctx, m.out, &b.Records[i]) {
				if m.ctx.Err() != nil || m.stopped() {
					return
				}
			}
		}
		if m.pubsub.group != "" {
			m.consumer.client.MarkCommitOffsets(map[string]map[int32]kgo.EpochOffset{m.topic: {m.reader.at.partition: {Epoch: -1, Offset: b.Next}}})
		}
		if m.stopped() {
			return
		}
	}
}

func (m *plainMember) stopped() bool {
	select {
	case <-m.stop:
		return true
	default:
		return false
	}
}
