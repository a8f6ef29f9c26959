package framework

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/microstore"
)

// RecordBytes is what OutboxBytes counts for a record besides its encoding.
const RecordBytes = recordBytes

// Feed is a transport of sources under a test's control: it delivers the records that it is given, several batches
// ahead of their acknowledgements, and tells how far they are acknowledged without a gap.
type Feed struct {
	// Bounded topics end after the records that are there when they are subscribed.
	Bounded bool
	// Acked is told every new position, if set. Calls for one partition do not overlap.
	Acked func(topic string, partition int, position int64)
	// Again makes every subscription begin at the first record, whatever the engine asks for.
	Again bool
	// Unpositioned topics have no positions: every subscription begins at the first record, and what was processed
	// is known by its id.
	Unpositioned bool
	// Gates hold back batches of their topics: each takes a token first.
	Gates map[string]chan struct{}
	// ID is that of the topics.
	ID string
	// Hold, if set, is waited for before anything is delivered.
	Hold <-chan struct{}
	// Refuse, if set, makes Subscribe fail.
	Refuse error

	lock   sync.Mutex
	topics map[string][]*feedPart
}

type feedPart struct {
	records []Record
	acked   int64
	ended   bool
	changed chan struct{}
}

// NewFeed makes a feed of topics, each a list of partitions, and numbers the records.
func NewFeed(topics map[string][][]Record) *Feed {
	f := &Feed{topics: map[string][]*feedPart{}}
	for name, parts := range topics {
		for p := range parts {
			f.topics[name] = append(f.topics[name], &feedPart{changed: make(chan struct{})})
			f.Push(name, p, parts[p]...)
		}
	}
	return f
}

// Push adds records to a partition.
func (f *Feed) Push(topic string, partition int, records ...Record) {
	f.lock.Lock()
	defer f.lock.Unlock()
	part := f.topics[topic][partition]
	for _, r := range records {
		r.Offset = int64(len(part.records))
		part.records = append(part.records, r)
	}
	close(part.changed)
	part.changed = make(chan struct{})
}

// End ends a partition of a topic that was not bounded.
func (f *Feed) End(topic string, partition int) {
	f.lock.Lock()
	f.topics[topic][partition].ended = true
	f.lock.Unlock()
	f.Push(topic, partition)
}

// AckedTo is the position before which all is acknowledged.
func (f *Feed) AckedTo(topic string, partition int) int64 {
	f.lock.Lock()
	defer f.lock.Unlock()
	return f.topics[topic][partition].acked
}

func (f *Feed) Topic(_ context.Context, name string) (TopicInfo, error) {
	if f.topics[name] == nil {
		return TopicInfo{}, ErrNoTopic
	}
	return TopicInfo{Partitions: len(f.topics[name]), Positioned: !f.Unpositioned, Bounded: f.Bounded, ID: f.ID}, nil
}

func (f *Feed) Publisher(PublisherConfig) (Publisher, error) {
	return nil, errors.New("a feed is not written to")
}

func (f *Feed) Subscriber(c SubscriberConfig) (message.Subscriber, error) {
	return &feedSubscriber{feed: f, config: c, done: make(chan struct{})}, nil
}

type feedSubscriber struct {
	feed   *Feed
	config SubscriberConfig
	done   chan struct{}
	once   sync.Once
	owned  sync.WaitGroup
}

func (s *feedSubscriber) Subscribe(_ context.Context, topic string) (<-chan *message.Message, error) {
	if s.feed.Refuse != nil {
		return nil, s.feed.Refuse
	}
	out := make(chan *message.Message)
	for p, part := range s.feed.topics[topic] {
		from, _ := s.config.Start(topic, p)
		if s.feed.Again || s.feed.Unpositioned {
			from = 0
		}
		s.owned.Go(func() { s.deliver(topic, p, part, from, out) })
	}
	go func() {
		s.owned.Wait()
		<-s.done
		close(out)
	}()
	return out, nil
}

func (s *feedSubscriber) deliver(topic string, p int, part *feedPart, from int64, out chan<- *message.Message) {
	if s.feed.Hold != nil {
		select {
		case <-s.feed.Hold:
		case <-s.done:
			return
		}
	}
	window := make(chan struct{}, s.config.InFlight)
	acks := sync.Mutex{} // one after the other
	done := map[int64]int64{}
	acked := from
	first := true
	for seq := uint64(0); ; seq++ {
		s.feed.lock.Lock()
		all, changed, ended := part.records, part.changed, part.ended || s.feed.Bounded
		s.feed.lock.Unlock()
		n := min(int64(s.config.BatchEvents), int64(len(all))-from)
		if n == 0 && !first && !ended {
			select {
			case <-changed:
				seq--
				continue
			case <-s.done:
				return
			}
		}
		first = false
		if gate := s.feed.Gates[topic]; gate != nil {
			select {
			case <-gate:
			case <-s.done:
				return
			}
		}
		b := &Batch{Topic: topic, Partition: p, Seq: seq, Records: append([]Record(nil), all[from:from+n]...), Next: from + n}
		b.CaughtUp = b.Next == int64(len(all))
		b.End = b.CaughtUp && ended
		msg := NewBatchMessage(context.Background(), b)
		select {
		case window <- struct{}{}:
		case <-s.done:
			return
		}
		select {
		case out <- msg:
		case <-s.done:
			return
		}
		start := from
		s.owned.Go(func() {
			select {
			case <-msg.Nacked():
				return
			case <-msg.Acked():
			case <-s.done: // it may be acknowledged all the same, while the engine stops
				select {
				case <-msg.Acked():
				default:
					return
				}
			}
			acks.Lock()
			defer acks.Unlock()
			done[start] = b.Next
			for {
				next, ok := done[acked]
				if !ok {
					break
				}
				delete(done, acked)
				if acked = next; next == start {
					break
				}
			}
			s.feed.lock.Lock()
			part.acked = max(part.acked, acked)
			s.feed.lock.Unlock()
			if s.feed.Acked != nil {
				s.feed.Acked(topic, p, acked)
			}
			<-window
		})
		from += n
		if b.End {
			return
		}
	}
}

func (s *feedSubscriber) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

// TestSink is a transport of one sink that keeps what it is sent.
type TestSink struct {
	// Before is asked before each Publish; what it returns is returned.
	Before func(ctx context.Context) error
	// Limit is how long a record's value may be; 0: as it is.
	Limit int

	lock    sync.Mutex
	records []Record
	calls   int
	changed chan struct{}
}

func (s *TestSink) Topic(context.Context, string) (TopicInfo, error) {
	return TopicInfo{Partitions: 1}, nil
}

func (s *TestSink) Subscriber(SubscriberConfig) (message.Subscriber, error) {
	return nil, errors.New("a sink is not read")
}

func (s *TestSink) Publisher(PublisherConfig) (Publisher, error) { return s, nil }

func (s *TestSink) Publish(ctx context.Context, _ string, records []Record) error {
	s.lock.Lock()
	s.calls++
	s.lock.Unlock()
	if s.Before != nil {
		if err := s.Before(ctx); err != nil {
			return err
		}
	}
	for _, r := range records {
		if s.Limit > 0 && len(r.Value) > s.Limit {
			return Permanent(fmt.Errorf("%w: over %d bytes", ErrTooLarge, s.Limit))
		}
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	s.records = append(s.records, records...)
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	return nil
}

func (s *TestSink) Close() error { return nil }

// Records returns what was sent.
func (s *TestSink) Records() []Record {
	s.lock.Lock()
	defer s.lock.Unlock()
	return append([]Record(nil), s.records...)
}

// Await waits until n records were sent.
func (s *TestSink) Await(n int) []Record {
	for {
		s.lock.Lock()
		if len(s.records) >= n {
			defer s.lock.Unlock()
			return append([]Record(nil), s.records...)
		}
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.lock.Unlock()
		<-changed
	}
}

// StoredProcessed is how many processed ids the committed state of a task has of a source, and whether all of these
// are among them.
func StoredProcessed(store *microstore.Store, name, source string, ids []string) (n int, all bool, err error) {
	slice, err := store.Task(name)
	if err != nil {
		return 0, false, err
	}
	processed, err := slice.Processed(source+".processed", defaultRemember)
	if err != nil {
		return 0, false, err
	}
	n = processed.Len()
	for _, id := range ids[:min(n, len(ids))] {
		if !processed.Has(id) {
			return n, false, nil
		}
	}
	return n, true, nil
}

// StoredPosition is how far the committed state of a task has come in a topic.
func StoredPosition(store *microstore.Store, name, topic string) (int64, error) {
	slice, err := store.Task(name)
	if err != nil {
		return 0, err
	}
	meta, err := slice.Meta()
	if err != nil {
		return 0, err
	}
	t := &task{tally: newTally(nil), name: name, sources: []*taskSource{{topic: topic}}}
	if err := t.restoreMeta(meta); err != nil {
		return 0, err
	}
	return t.sources[0].next, nil
}
