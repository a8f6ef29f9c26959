package embedded

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/internal/delivery"
	"github.com/millrace/millrace/transport/internal/plain"
)

// Transport keeps topics in a store. It implements framework.StoreTransport and framework.TopicKeeper; its methods
// are safe for concurrent use.
type Transport struct {
	store  *microstore.Store
	owned  bool // Close closes the store
	config Config
	groups *plain.Groups

	making sync.Mutex // one CreateTopic at a time
	mu     sync.RWMutex
	topics map[string]*topic
}

var (
	_ framework.StoreTransport = (*Transport)(nil)
	_ framework.TopicCreator   = (*Transport)(nil)
	_ framework.TopicKeeper    = (*Transport)(nil)
)

// topic is a log for each partition.
type topic struct {
	name string
	logs []*microstore.Log
}

// Open opens the store in a directory, made if it is not there, and the transport of the topics in it. Close closes
// both, after all that reads and writes through the transport. What the store is to be like otherwise is said with
// microstore.Open and New.
func Open(dir string, config Config) (*Transport, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("embedded: config: %w", err)
	}
	store, err := microstore.Open(microstore.Config{Dir: dir, Logger: config.Logger})
	if err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	t, err := New(store, config)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	t.owned = true
	return t, nil
}

// New makes a transport of the topics in a store, which stays its opener's to close. Of several transports over one
// store, make the same topics with one only.
func New(store *microstore.Store, config Config) (*Transport, error) {
	if store == nil {
		return nil, errors.New("embedded: the store is nil")
	}
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("embedded: config: %w", err)
	}
	t := &Transport{store: store, config: config.WithDefaults(), topics: make(map[string]*topic)}
	t.groups = plain.NewGroups(backend{t})
	return t, nil
}

// Close closes the store, if Open has opened it. It may be called twice.
func (t *Transport) Close() error {
	if !t.owned {
		return nil
	}
	return t.store.Close()
}

// Store returns the store that the topics live in.
func (t *Transport) Store() *microstore.Store { return t.store }

// Topic describes a topic; Size is in records.
func (t *Transport) Topic(ctx context.Context, name string) (framework.TopicInfo, error) {
	topic, err := t.topic(ctx, name)
	if err != nil {
		return framework.TopicInfo{}, err
	}
	info := framework.TopicInfo{Partitions: len(topic.logs), Positioned: true}
	for _, log := range topic.logs {
		info.Size += log.End() - log.Start()
	}
	return info, nil
}

// CreateTopic makes a topic unless it is there with as many partitions. 0: Config.Partitions.
func (t *Transport) CreateTopic(ctx context.Context, name string, partitions int) error {
	return t.create(ctx, name, partitions, "")
}

// CreateKept makes a topic as CreateTopic does, but one that keeps all records until Release, whatever Config's
// retention is.
func (t *Transport) CreateKept(ctx context.Context, name string, partitions int) error {
	return t.create(ctx, name, partitions, keptMark)
}

// Release lets go of the records of a partition before an offset, in whole chunks.
func (t *Transport) Release(name string, partition int, before int64) error {
	log, err := t.log(name, partition)
	if err != nil {
		return err
	}
	if err := log.Trim(before); err != nil {
		return fmt.Errorf("embedded: release partition %d of %q: %w", partition, name, err)
	}
	return nil
}

// Held tells how many records a partition holds from an offset on, and about how many bytes they take: as many for
// each as the others of the partition.
func (t *Transport) Held(name string, partition int, from int64) (start, records, bytes int64, err error) {
	log, err := t.log(name, partition)
	if err != nil {
		return 0, 0, 0, err
	}
	oldest, end, size := log.Size()
	start = min(max(from, oldest), end)
	if records = end - start; records > 0 {
		bytes = int64(float64(size) * (float64(records) / float64(end-oldest)))
	}
	return start, records, bytes, nil
}

// keptMark follows the number of partitions of a topic without retention.
const keptMark = " kept"

func (t *Transport) create(ctx context.Context, name string, partitions int, mark string) error {
	if name == "" {
		return errors.New("embedded: create topic: the name is empty")
	}
	if partitions < 0 || partitions > maxPartitions {
		return fmt.Errorf("embedded: create topic %q: %d partitions: it must be 1 to %d, or 0 for the default of %d",
			name, partitions, maxPartitions, t.config.Partitions)
	}
	t.making.Lock()
	defer t.making.Unlock()
	is, err := t.find(name)
	switch {
	case err == nil && partitions != 0 && partitions != len(is.logs):
		return fmt.Errorf("embedded: create topic %q: it has %d partitions, not %d", name, len(is.logs), partitions)
	case err == nil || !errors.Is(err, framework.ErrNoTopic):
		return err
	}
	if partitions == 0 {
		partitions = t.config.Partitions
	}
	b := t.store.NewBatch()
	b.Put(topicKey(name), append(strconv.AppendInt(nil, int64(partitions), 10), mark...))
	if err := t.store.Commit(ctx, b); err != nil {
		return fmt.Errorf("embedded: create topic %q: %w", name, err)
	}
	_, err = t.find(name)
	return err
}

// topic finds a topic, or makes it if that was asked for.
func (t *Transport) topic(ctx context.Context, name string) (*topic, error) {
	found, err := t.find(name)
	if err == nil || !t.config.AutoCreate || !errors.Is(err, framework.ErrNoTopic) {
		return found, err
	}
	if err := t.CreateTopic(ctx, name, 0); err != nil {
		return nil, err
	}
	return t.find(name)
}

// find finds a topic in memory or in the store.
func (t *Transport) find(name string) (*topic, error) {
	t.mu.RLock()
	found := t.topics[name]
	t.mu.RUnlock()
	if found != nil {
		return found, nil
	}
	value, ok, err := t.store.Get(topicKey(name))
	if err != nil {
		return nil, fmt.Errorf("embedded: topic %q: %w", name, err)
	}
	if !ok {
		return nil, fmt.Errorf("embedded: topic %q: %w: make it with CreateTopic, or set Config.AutoCreate",
			name, framework.ErrNoTopic)
	}
	number, kept := strings.CutSuffix(string(value), keptMark)
	partitions, err := strconv.Atoi(number)
	if err != nil || partitions < 1 || partitions > maxPartitions {
		return nil, fmt.Errorf("embedded: topic %q: its number of partitions is damaged: %q", name, value)
	}
	found = &topic{name: name, logs: make([]*microstore.Log, partitions)}
	for i := range found.logs {
		log, err := t.store.Log(fmt.Sprintf("embedded/%s/%d", url.PathEscape(name), i))
		if err != nil {
			return nil, fmt.Errorf("embedded: topic %q: partition %d: %w", name, i, err)
		}
		if !kept {
			log.Retain(t.config.retention())
		}
		found.logs[i] = log
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if other := t.topics[name]; other != nil {
		return other, nil
	}
	t.topics[name] = found
	return found, nil
}

func topicKey(name string) string { return "embedded/topic/" + url.PathEscape(name) }

// Subscriber makes what reads topics in batches, all partitions of each.
func (t *Transport) Subscriber(config framework.SubscriberConfig) (message.Subscriber, error) {
	open := func(ctx context.Context, name string) ([]delivery.Reader, error) {
		topic, err := t.topic(ctx, name)
		if err != nil {
			return nil, err
		}
		return topic.subscribe(config)
	}
	return subscriber{delivery.NewSubscriber(config, open), t}, nil
}

// Publisher makes what writes topics from outside, each Publish with commits of its own.
func (t *Transport) Publisher(framework.PublisherConfig) (framework.Publisher, error) {
	return publisher{t}, nil
}
