package framework

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Broker is a transport whose partitions are shared out among members, by hand of the test. It keeps topics and the
// group's positions, as a service beside the processes would.
type Broker struct {
	lock    sync.Mutex
	topics  map[string][]*brokerPart
	marked  map[string]int64  // by "topic/partition"
	ids     map[string]string // of topics
	moves   int64             // assignments and topics so far
	owners  map[string]*Member
	Members []*Member

	lags    bool            // what is marked is committed later
	holds   map[string]bool // topics of which no position is committed
	trimmed map[string]bool // topics that have a retention
	tooFar  []string        // releases
}

type brokerPart struct {
	start   int64 // offset of the first record
	records []Record
	changed chan struct{}
}

// NewBroker makes a broker without topics.
func NewBroker() *Broker {
	return &Broker{topics: map[string][]*brokerPart{}, marked: map[string]int64{}, ids: map[string]string{}, owners: map[string]*Member{},
		trimmed: map[string]bool{}, holds: map[string]bool{}}
}

// Lag lets members commit only some of the times that they mark; one that dies has not committed the rest.
func (b *Broker) Lag() {
	b.lock.Lock()
	defer b.lock.Unlock()
	b.lags = true
}

// Hold lets no position of a topic be committed.
func (b *Broker) Hold(topic string) {
	b.lock.Lock()
	defer b.lock.Unlock()
	b.holds[topic] = true
}

// Retain gives a topic a retention.
func (b *Broker) Retain(topic string) {
	b.lock.Lock()
	defer b.lock.Unlock()
	b.trimmed[topic] = true
}

// Create makes a topic unless it is there.
func (b *Broker) Create(topic string, partitions int) {
	b.lock.Lock()
	defer b.lock.Unlock()
	if b.ids[topic] == "" {
		b.moves++
		b.ids[topic] = fmt.Sprint(topic, "#", b.moves)
	}
	for len(b.topics[topic]) < partitions {
		b.topics[topic] = append(b.topics[topic], &brokerPart{changed: make(chan struct{})})
	}
}

// Append adds records, each to the partition of its key; watermarks to all.
func (b *Broker) Append(topic string, records ...Record) {
	b.lock.Lock()
	defer b.lock.Unlock()
	parts := b.topics[topic]
	for _, r := range records {
		for p, part := range parts {
			if r.Watermark || Partition(r.Key, len(parts)) == p {
				r.Offset = part.start + int64(len(part.records))
				part.records = append(part.records, r)
				close(part.changed)
				part.changed = make(chan struct{})
			}
		}
	}
}

// Records returns all records of a topic, partition by partition.
func (b *Broker) Records(topic string) (all []Record) {
	b.lock.Lock()
	defer b.lock.Unlock()
	for _, part := range b.topics[topic] {
		all = append(all, part.records...)
	}
	return all
}

// Marked is the group's position of a partition.
func (b *Broker) Marked(topic string, partition int) (int64, bool) {
	b.lock.Lock()
	defer b.lock.Unlock()
	at, ok := b.marked[fmt.Sprint(topic, "/", partition)]
	return at, ok
}

// Mark is what another process does that has had a partition meanwhile.
func (b *Broker) Mark(topic string, partition int, position int64) {
	b.lock.Lock()
	defer b.lock.Unlock()
	b.marked[fmt.Sprint(topic, "/", partition)] = position
}

// Behind tells how many records of the topics the group has not marked.
func (b *Broker) Behind(topics ...string) (n int) {
	b.lock.Lock()
	defer b.lock.Unlock()
	for _, topic := range topics {
		for p, part := range b.topics[topic] {
			name := fmt.Sprint(topic, "/", p)
			at := b.marked[name]
			if owner := b.owners[name]; owner != nil && !owner.gone {
				at = max(at, owner.told[name])
			}
			n += int(part.start) + len(part.records) - int(at)
		}
	}
	return n
}

// Member is one process's view of the broker.
type Member struct {
	*Broker
	// Refuse, if set, is asked before each Publish.
	Refuse func(ctx context.Context) error
	// Takes, if set, tells what topics take records.
	Takes func(topic string) bool
	// TooLarge, if set, tells what records topics do not take.
	TooLarge func(topic string, r *Record) bool
	// Unreadable, if set, is asked before each Span.
	Unreadable func() error
	// Away, if set, is asked before each Topic, Span and Keeps.
	Away func() error
	// Unread, if set, is asked before each Read.
	Unread func() error
	// Ends, if set, tells why a source cannot be read any further, or nil.
	Ends func(topic string) error
	// Asked, if set, is called when it is asked whether it is a member.
	Asked func()

	read   atomic.Int64     // records by Read
	gone   bool             // its process is dead: nothing it does has an effect any more
	told   map[string]int64 // what it has marked and not committed
	sub    *brokerSubscriber
	joined chan struct{}
}

// Join adds a member.
func (b *Broker) Join() *Member {
	m := &Member{Broker: b, joined: make(chan struct{}), told: map[string]int64{}}
	b.lock.Lock()
	defer b.lock.Unlock()
	b.Members = append(b.Members, m)
	return m
}

// Kill makes all that the member does from now on have no effect.
func (m *Member) Kill() {
	m.lock.Lock()
	defer m.lock.Unlock()
	m.gone = true
}

// Delete removes the records of a partition before an offset.
func (b *Broker) Delete(topic string, partition int, before int64) {
	b.lock.Lock()
	defer b.lock.Unlock()
	part := b.topics[topic][partition]
	if n := min(before-part.start, int64(len(part.records))); n > 0 {
		part.records, part.start = slices.Clone(part.records[n:]), part.start+n
	}
}

// compactedAway is the type of records that are not there any more.
const compactedAway = "compacted away"

// Compact takes away all records but the newest of each key; with tombstones that too where it has no value.
func (b *Broker) Compact(topic string, tombstones bool) {
	b.lock.Lock()
	defer b.lock.Unlock()
	for _, part := range b.topics[topic] {
		newer := map[string]bool{}
		part.records = slices.Clone(part.records) // some of them are on their way
		for i := len(part.records) - 1; i >= 0; i-- {
			r := &part.records[i]
			if newer[r.Key] || tombstones && r.Value == nil {
				*r = Record{Offset: r.Offset, Key: r.Key, Type: compactedAway}
			}
			newer[r.Key] = true
		}
	}
}

// Span, ReadSpan, CreateKept, Release and Held make it a framework.ChangelogTransport.
func (m *Member) Span(_ context.Context, topic string, partition int) (start, end int64, err error) {
	if err := m.away(); err != nil {
		return 0, 0, err
	}
	m.lock.Lock()
	unreadable := m.Unreadable
	m.lock.Unlock()
	if unreadable != nil {
		if err := unreadable(); err != nil {
			return 0, 0, err
		}
	}
	m.lock.Lock()
	defer m.lock.Unlock()
	part := m.topics[topic][partition]
	return part.start, part.start + int64(len(part.records)), nil
}

func (m *Member) ReadSpan(ctx context.Context, topic string, partition int, from, to int64, visit func([]Record) error) error {
	for from < to {
		m.lock.Lock()
		part := m.topics[topic][partition]
		from = max(from, part.start)
		n := min(to, from+3, part.start+int64(len(part.records))) - from
		records := slices.Clone(part.records[from-part.start:][:max(0, n)])
		m.lock.Unlock()
		if err := ctx.Err(); err != nil || n <= 0 {
			return err
		}
		if err := visit(records); err != nil {
			return err
		}
		from += n
	}
	return nil
}

func (m *Member) away() error {
	if m.Away == nil {
		return nil
	}
	return m.Away()
}

func (m *Member) CreateKept(ctx context.Context, name string, partitions int) error {
	return m.CreateTopic(ctx, name, partitions)
}

func (m *Member) Release(topic string, partition int, before int64) error {
	m.lock.Lock()
	gone, name := m.gone, fmt.Sprint(topic, "/", partition)
	if _, read := m.owners[name]; read && !gone && before > m.marked[name] {
		m.tooFar = append(m.tooFar, fmt.Sprintf("%s up to %d, and the group is at %d", name, before, m.marked[name]))
	}
	m.lock.Unlock()
	if !gone {
		m.Delete(topic, partition, before)
	}
	return nil
}

// TooFar is what was let go of and may have been wanted again.
func (b *Broker) TooFar() []string {
	b.lock.Lock()
	defer b.lock.Unlock()
	return slices.Clone(b.tooFar)
}

// Keeps tells whether a topic has no retention.
func (m *Member) Keeps(_ context.Context, topic string) (bool, error) {
	if err := m.away(); err != nil {
		return false, err
	}
	m.lock.Lock()
	defer m.lock.Unlock()
	return !m.trimmed[topic], nil
}

// Start is the offset of the oldest record of a partition.
func (b *Broker) Start(topic string, partition int) int64 {
	b.lock.Lock()
	defer b.lock.Unlock()
	return b.topics[topic][partition].start
}

func (m *Member) Held(string, int, int64) (start, records, bytes int64, err error) {
	return 0, 0, 0, errors.New("nobody asks")
}

// Topic, CreateTopic, CreateKept, Release, Publisher and Subscriber make it a framework.Transport.
func (m *Member) Topic(_ context.Context, name string) (TopicInfo, error) {
	if err := m.away(); err != nil {
		return TopicInfo{}, err
	}
	m.lock.Lock()
	defer m.lock.Unlock()
	if m.topics[name] == nil {
		return TopicInfo{}, ErrNoTopic
	}
	return TopicInfo{Partitions: len(m.topics[name]), Positioned: true, Shared: true, ID: m.ids[name]}, nil
}

func (m *Member) CreateTopic(_ context.Context, name string, partitions int) error {
	m.Create(name, max(partitions, 1))
	return nil
}

func (m *Member) Publisher(PublisherConfig) (Publisher, error) { return brokerPublisher{m}, nil }

type brokerPublisher struct{ m *Member }

func (p brokerPublisher) Publish(ctx context.Context, topic string, records []Record) error {
	if p.m.Refuse != nil {
		if err := p.m.Refuse(ctx); err != nil {
			return err
		}
	}
	p.m.lock.Lock()
	gone := p.m.gone
	p.m.lock.Unlock()
	if gone || p.m.Takes != nil && !p.m.Takes(topic) {
		return errors.New("the process is dead, or its broker away")
	}
	for i := range records {
		if p.m.TooLarge != nil && p.m.TooLarge(topic, &records[i]) {
			return Permanent(ErrTooLarge)
		}
	}
	p.m.Append(topic, records...)
	return nil
}

func (p brokerPublisher) Close() error { return nil }

func (m *Member) Subscriber(c SubscriberConfig) (message.Subscriber, error) {
	if m.sub != nil {
		return nil, errors.New("one subscriber is enough")
	}
	m.sub = &brokerSubscriber{m: m, config: c, out: map[string]chan *message.Message{}, reading: map[place]*reading{}}
	return m.sub, nil
}

// Generation and Member make it a framework.Generations.
func (s *brokerSubscriber) Generation(string, int) int64 { return s.generation }

func (s *brokerSubscriber) Member(context.Context) (bool, error) {
	if s.m.Asked != nil {
		s.m.Asked()
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	s.m.Broker.lock.Lock()
	defer s.m.Broker.lock.Unlock()
	for at := range s.reading {
		for _, topic := range s.config.Together[at.group] {
			if s.m.owners[fmt.Sprint(topic, "/", at.partition)] != s.m {
				return false, nil
			}
		}
	}
	return true, nil
}

type place struct{ group, partition int }

// reading is the delivery of an assigned partition.
type reading struct {
	stop  context.CancelFunc
	parts sync.WaitGroup
}

type brokerSubscriber struct {
	m       *Member
	config  SubscriberConfig
	lock    sync.Mutex
	out     map[string]chan *message.Message
	reading map[place]*reading
	closed  bool

	generation int64 // of the last assignment
	marks      int   // so far
}

func (s *brokerSubscriber) Subscribe(_ context.Context, topic string) (<-chan *message.Message, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.out[topic] = make(chan *message.Message)
	n := 0
	for _, topics := range s.config.Together {
		n += len(topics)
	}
	if len(s.out) == n {
		close(s.m.joined)
	}
	return s.out[topic], nil
}

// Mark keeps a position; never a lower one.
func (s *brokerSubscriber) Mark(topic string, partition int, position int64) {
	s.m.Broker.lock.Lock()
	defer s.m.Broker.lock.Unlock()
	name := fmt.Sprint(topic, "/", partition)
	if s.m.owners[name] != s.m {
		return // it does not know yet that it is another's
	}
	if was := max(s.m.marked[name], s.m.told[name]); position < was {
		panic(fmt.Sprintf("position %d of %s is marked after %d", position, name, was))
	}
	s.m.told[name] = position
	if s.marks++; !s.m.lags || s.marks%5 == 0 {
		s.m.commit()
	}
}

// commit commits what is marked; the lock is held.
func (m *Member) commit() {
	for name, at := range m.told {
		if m.holds[name[:strings.LastIndex(name, "/")]] {
			continue
		}
		if !m.gone && m.owners[name] == m {
			m.marked[name] = max(m.marked[name], at)
		}
		delete(m.told, name)
	}
}

// Committed is the group's position, as its owner knows it.
func (s *brokerSubscriber) Committed(topic string, partition int) (int64, bool) {
	s.m.Broker.lock.Lock()
	defer s.m.Broker.lock.Unlock()
	name := fmt.Sprint(topic, "/", partition)
	at, ok := s.m.marked[name]
	return at, ok && s.m.owners[name] == s.m
}

// Close revokes everything.
func (s *brokerSubscriber) Close() error {
	s.lock.Lock()
	if s.closed {
		s.lock.Unlock()
		return nil
	}
	s.closed = true
	var all []place
	for at := range s.reading {
		all = append(all, at)
	}
	s.lock.Unlock()
	for _, at := range all {
		s.m.Revoke(context.Background(), at.group, at.partition)
	}
	for _, out := range s.out {
		close(out)
	}
	return nil
}

// Groups are the stages of the member: the topics that belong together.
func (m *Member) Groups() [][]string {
	<-m.joined
	return m.sub.config.Together
}

// Assign gives a partition to the member.
func (m *Member) Assign(group, partition int) error {
	return m.AssignIn(context.Background(), group, partition)
}

// AssignIn is Assign while ctx is not done.
func (m *Member) AssignIn(ctx context.Context, group, partition int) error {
	topics := m.Groups()[group]
	committed := map[string]int64{}
	for _, topic := range topics {
		if at, ok := m.Marked(topic, partition); ok {
			committed[topic] = at
		}
	}
	m.lock.Lock()
	m.moves++
	m.sub.generation = m.moves
	for _, topic := range topics {
		name := fmt.Sprint(topic, "/", partition)
		m.owners[name] = m
		delete(m.told, name)
	}
	m.lock.Unlock()
	if err := m.sub.config.Assignments.Assign(ctx, group, partition, committed); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	r := &reading{stop: stop}
	m.sub.lock.Lock()
	defer m.sub.lock.Unlock()
	if m.sub.closed { // meanwhile: it is another's now
		stop()
		m.sub.config.Assignments.Lose(group, partition)
		return nil
	}
	m.sub.reading[place{group, partition}] = r
	for _, topic := range topics {
		from, _ := m.sub.config.Start(topic, partition)
		r.parts.Go(func() { m.sub.deliver(ctx, topic, partition, from) })
	}
	return nil
}

// Revoke takes a partition from the member in good order, Lose at once.
func (m *Member) Revoke(ctx context.Context, group, partition int) {
	m.stopReading(group, partition, func() { _ = m.sub.config.Assignments.Revoke(ctx, group, partition) })
	m.lock.Lock()
	defer m.lock.Unlock()
	m.commit()
}

// Reads tells whether records of a partition are delivered, which ends when it is revoked or lost.
func (m *Member) Reads(group, partition int) bool {
	m.sub.lock.Lock()
	defer m.sub.lock.Unlock()
	return m.sub.reading[place{group, partition}] != nil
}

func (m *Member) Lose(group, partition int) {
	m.lock.Lock()
	for _, topic := range m.sub.config.Together[group] {
		delete(m.told, fmt.Sprint(topic, "/", partition))
	}
	m.lock.Unlock()
	m.stopReading(group, partition, func() { m.sub.config.Assignments.Lose(group, partition) })
}

// Deafen lets nothing more be delivered to the member, which does not hear of that.
func (m *Member) Deafen() {
	m.sub.lock.Lock()
	defer m.sub.lock.Unlock()
	for _, r := range m.sub.reading {
		r.stop()
	}
}

func (m *Member) stopReading(group, partition int, tell func()) {
	m.sub.lock.Lock()
	r := m.sub.reading[place{group, partition}]
	delete(m.sub.reading, place{group, partition})
	if r != nil {
		r.stop()
	}
	m.sub.lock.Unlock()
	if r != nil {
		tell()
		r.parts.Wait()
	}
}

// deliver delivers batches of a partition, several ahead of their acknowledgements; when it is stopped, it waits for
// those that are out.
func (s *brokerSubscriber) deliver(ctx context.Context, topic string, partition int, from int64) {
	s.m.Broker.lock.Lock()
	part := s.m.topics[topic][partition]
	s.m.Broker.lock.Unlock()
	window := make(chan struct{}, s.config.InFlight)
	var out sync.WaitGroup
	defer out.Wait()
	for seq := uint64(0); ; seq++ {
		select {
		case window <- struct{}{}:
		case <-ctx.Done():
			return
		}
		records, end, ok := s.next(ctx, part, from, seq == 0)
		if !ok {
			return
		}
		b := &Batch{Topic: topic, Partition: partition, Seq: seq, Records: records, Next: end}
		if n := len(records); n > 0 {
			b.Next = records[n-1].Offset + 1
		}
		b.CaughtUp = b.Next == end
		if s.m.Ends != nil {
			if err := s.m.Ends(topic); err != nil {
				b.Records, b.Next = []Record{{Offset: from, Err: Fatal(err)}}, from
			}
		}
		b.Records = slices.DeleteFunc(b.Records, func(r Record) bool { return r.Type == compactedAway })
		msg := NewBatchMessage(context.Background(), b)
		select {
		case s.out[topic] <- msg:
		case <-ctx.Done():
			return
		}
		from = b.Next
		out.Go(func() {
			select {
			case <-msg.Acked():
				<-window
			case <-msg.Nacked():
			}
		})
	}
}

// next waits for records, but with the first batch: there is always one, so that it is known that a partition is empty.
func (s *brokerSubscriber) next(ctx context.Context, part *brokerPart, from int64, first bool) (records []Record, end int64, ok bool) {
	for {
		s.m.Broker.lock.Lock()
		end = part.start + int64(len(part.records))
		from = max(from, part.start)
		records = slices.Clone(part.records[from-part.start : min(end, from+int64(s.config.BatchEvents))-part.start])
		changed := part.changed
		s.m.Broker.lock.Unlock()
		if len(records) > 0 || first {
			return records, end, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, 0, false
		}
	}
}

// Read makes it a TopicReader.
func (m *Member) Read(_ context.Context, topic string, partition int, from int64, fn func(Record) error) (next int64, err error) {
	if m.Unread != nil {
		if err := m.Unread(); err != nil {
			return from, err
		}
	}
	m.lock.Lock()
	part := m.topics[topic][partition]
	records, end := slices.Clone(part.records), part.start+int64(len(part.records))
	m.lock.Unlock()
	m.read.Add(end - from)
	for _, r := range records {
		if r.Offset < from {
			continue
		}
		if err := fn(r); err != nil {
			return r.Offset, err
		}
	}
	return end, nil
}

// TakeRead is how many records were read by Read since the last call.
func (m *Member) TakeRead() int64 { return m.read.Swap(0) }

// Keeper is a Member that is a TopicKeeper, and counts how often it was told to let go of records.
type Keeper struct {
	*Member
	Released atomic.Int64
}

func (k *Keeper) CreateKept(ctx context.Context, name string, partitions int) error {
	return k.CreateTopic(ctx, name, partitions)
}

func (k *Keeper) Release(string, int, int64) error {
	k.Released.Add(1)
	return nil
}

func (k *Keeper) Held(_ string, _ int, from int64) (start, records, bytes int64, err error) {
	return from, 0, 0, nil
}

// Fail delivers what a transport delivers in place of a partition that Assign has refused.
func (m *Member) Fail(topic string, partition int, err error) {
	m.sub.out[topic] <- NewBatchMessage(context.Background(),
		&Batch{Topic: topic, Partition: partition, Records: []Record{{Err: Fatal(err)}}})
}

// Fenced is how many records of a changelog do not count, since a later owner has claimed it before.
func (b *Broker) Fenced(topic string, partition int) (n int) {
	b.lock.Lock()
	defer b.lock.Unlock()
	epoch := uint64(0)
	for _, r := range b.topics[topic][min(partition, len(b.topics[topic])-1)].records {
		h, err := readLogRecord(r.Value)
		if err != nil {
			panic(err)
		}
		if h.epoch < epoch {
			n++
		}
		epoch = max(epoch, h.epoch)
	}
	return n
}

// Remove deletes a topic, with the group's positions in it.
func (b *Broker) Remove(topic string) {
	b.lock.Lock()
	defer b.lock.Unlock()
	for p := range b.topics[topic] {
		delete(b.marked, fmt.Sprint(topic, "/", p))
	}
	delete(b.topics, topic)
	delete(b.ids, topic)
}

// Bytes is how many a partition holds.
func (b *Broker) Bytes(topic string, partition int) (n int) {
	b.lock.Lock()
	defer b.lock.Unlock()
	for _, r := range b.topics[topic][partition].records {
		n += len(r.Value)
	}
	return n
}

// Written is how many records were ever appended to the first partition of a topic.
func (b *Broker) Written(topic string) int {
	b.lock.Lock()
	defer b.lock.Unlock()
	part := b.topics[topic][0]
	return int(part.start) + len(part.records)
}

// Unfinished adds the beginning of a copy to each partition of a changelog, as a process that is killed leaves it.
func (b *Broker) Unfinished(topic string) {
	b.lastOf(topic, func(h *logRecord) { h.kind, h.flags, h.part, h.parts = logCopy, logWhole|logEnd, 0, 2 })
}

// Zombies adds to each partition of a changelog what an owner of earlier, which had not copied all, may still write.
func (b *Broker) Zombies(topic string) {
	b.lastOf(topic, func(h *logRecord) { h.kind, h.flags, h.epoch = logChanges, 0, h.epoch-1 })
}

func (b *Broker) lastOf(topic string, change func(*logRecord)) {
	b.lock.Lock()
	defer b.lock.Unlock()
	for _, part := range b.topics[topic] {
		last := part.records[len(part.records)-1]
		h, err := readLogRecord(last.Value)
		if err != nil {
			panic(err)
		}
		change(&h)
		last.Value, last.Offset = h.append(nil), last.Offset+1
		part.records = append(part.records, last)
	}
}

// Anew deletes a changelog and makes it anew, with almost as many records that do not count as it ever had: the next one
// that claims it begins its copy where the old one ended.
func (b *Broker) Anew(topic string) {
	b.lock.Lock()
	parts := b.topics[topic]
	b.lock.Unlock()
	b.Remove(topic)
	b.Create(topic, len(parts))
	for p, part := range parts {
		for range int(part.start) + len(part.records) - 1 {
			b.Append(topic, (logRecord{kind: logChanges}).records(keyOf(p, len(parts)))...)
		}
	}
}
