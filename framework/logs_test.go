package framework

import (
	"context"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/microstore"
)

// logs is the least StoreTransport, for the engine's own tests.
type logs struct {
	store *microstore.Store
	lock  sync.Mutex
	parts map[string]int
}

func (l *logs) Store() *microstore.Store { return l.store }

func (l *logs) CreateTopic(_ context.Context, name string, n int) error {
	l.lock.Lock()
	defer l.lock.Unlock()
	l.parts[name] = max(n, 1)
	return nil
}

func (l *logs) Topic(_ context.Context, name string) (TopicInfo, error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	if l.parts[name] == 0 {
		return TopicInfo{}, ErrNoTopic
	}
	return TopicInfo{Partitions: l.parts[name], Positioned: true}, nil
}

func (l *logs) log(topic string, partition int) *microstore.Log {
	log, err := l.store.Log(topic + "/" + string(rune('0'+partition)))
	if err != nil {
		panic(err)
	}
	return log
}

func (l *logs) Append(b *microstore.Batch, topic string, partition int, records []Record) error {
	l.log(topic, partition).Append(b, len(records), 0, 0, AppendRecords(nil, records, nil))
	return nil
}

func (l *logs) Publisher(PublisherConfig) (Publisher, error) { panic("not used") }

func (l *logs) read(topic string, partition int, from int64) ([]Record, int64, error) {
	log := l.log(topic, partition)
	var all []Record
	for from < log.End() {
		chunks, err := log.Read(from, 1<<20)
		if err != nil {
			return nil, from, err
		}
		for _, c := range chunks {
			if all, from, err = ReadRecords(all, c.Data, c.Base, from); err != nil {
				return nil, from, err
			}
		}
	}
	return all, from, nil
}

func (l *logs) Subscriber(c SubscriberConfig) (message.Subscriber, error) {
	return &logSubscriber{l: l, c: c, done: make(chan struct{})}, nil
}

type logSubscriber struct {
	l    *logs
	c    SubscriberConfig
	done chan struct{}
	once sync.Once
	wait sync.WaitGroup
	out  chan *message.Message
}

func (s *logSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	s.out = make(chan *message.Message)
	ctx, cancel := context.WithCancel(ctx)
	go func() { <-s.done; cancel() }()
	info, err := s.l.Topic(ctx, topic)
	if err != nil {
		return nil, err
	}
	for p := range info.Partitions {
		s.wait.Go(func() {
			from, _ := s.c.Start(topic, p)
			for seq := uint64(0); ; seq++ {
				if s.l.log(topic, p).Wait(ctx, from) != nil {
					return
				}
				records, next, err := s.l.read(topic, p, from)
				if err != nil {
					panic(err)
				}
				b := &Batch{Topic: topic, Partition: p, Seq: seq, Records: records, Next: next, CaughtUp: true}
				select {
				case s.out <- NewBatchMessage(context.Background(), b):
				case <-ctx.Done():
					return
				}
				from = next
			}
		})
	}
	go func() { s.wait.Wait(); close(s.out) }()
	return s.out, nil
}

func (s *logSubscriber) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

// fed is a source that delivers given records and ends.
type fed struct {
	records map[string][]Record
}

func (f *fed) Topic(_ context.Context, name string) (TopicInfo, error) {
	return TopicInfo{Partitions: 1, Positioned: true, Bounded: true}, nil
}
func (f *fed) Publisher(PublisherConfig) (Publisher, error) { panic("not used") }
func (f *fed) Subscriber(c SubscriberConfig) (message.Subscriber, error) {
	return &fedSubscriber{f: f, c: c, done: make(chan struct{})}, nil
}

type fedSubscriber struct {
	f    *fed
	c    SubscriberConfig
	done chan struct{}
	once sync.Once
}

func (s *fedSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		from, _ := s.c.Start(topic, 0)
		all := s.f.records[topic]
		for seq := uint64(0); ; seq++ {
			n := min(int64(s.c.BatchEvents), int64(len(all))-from)
			b := &Batch{Topic: topic, Seq: seq, Records: all[from : from+n], Next: from + n, End: from+n == int64(len(all))}
			select {
			case out <- NewBatchMessage(context.Background(), b):
			case <-s.done:
				return
			}
			from += n
			if b.End {
				<-s.done
				return
			}
		}
	}()
	return out, nil
}

func (s *fedSubscriber) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}
