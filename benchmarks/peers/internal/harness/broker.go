package harness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/benchmarks/peers/internal/orders"
)

// listingAge is how old a listing of topics may be.
const listingAge = 100 * time.Millisecond

// broker is the Kafka under all systems.
type broker struct {
	address string
	client  *kgo.Client
	admin   *kadm.Client
}

func connect(ctx context.Context, address string) (*broker, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.ProducerBatchCompression(kgo.Lz4Compression()),
		kgo.ProducerLinger(0), kgo.MaxBufferedRecords(200_000), kgo.MetadataMinAge(listingAge))
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if err := client.Ping(wait); err != nil {
		client.Close()
		return nil, fmt.Errorf("no Kafka answers at %s: %w", address, err)
	}
	return &broker{address, client, kadm.NewClient(client)}, nil
}

func (b *broker) close() { b.client.Close() }

// create makes topics that keep everything, as what they hold should not go between two runs, and waits until they can
// be used.
func (b *broker) create(ctx context.Context, topics ...string) error {
	forever := "-1"
	made, err := b.admin.CreateTopics(ctx, orders.Partitions, 1, map[string]*string{"retention.ms": &forever}, topics...)
	if err == nil {
		err = made.Error()
	}
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, topic := range topics {
		for {
			ends, err := b.ends(wait, topic)
			if err == nil && len(ends) == orders.Partitions {
				break
			}
			if sleep(wait, 50*time.Millisecond) != nil {
				return fmt.Errorf("topic %s was made and has no leaders: %w", topic, err)
			}
		}
	}
	return nil
}

// inputs are the topics of a set that is kept between runs.
func inputs(s orders.Set) (ordered, paid string) {
	const version = 1 // of what orders makes of a number
	name := func(what string) string {
		return fmt.Sprintf("millrace-peers-v%d-%s-%s-%d", version, strings.ToLower(s.Workload), what, s.Orders)
	}
	if s.Workload == "W2" {
		return name("orders"), name("payments")
	}
	return name("orders"), ""
}

// preload fills the topics of a set unless they are full.
func (b *broker) preload(ctx context.Context, s orders.Set) error {
	ordered, paid := inputs(s)
	full := true
	for _, topic := range []string{ordered, paid} {
		if topic == "" {
			continue
		}
		if n, err := b.readable(ctx, topic); err == nil && n == int64(s.Orders) {
			continue
		}
		full = false
	}
	if full {
		return nil
	}
	topics := []string{ordered}
	if paid != "" {
		topics = append(topics, paid)
	}
	if err := b.remake(ctx, topics...); err != nil {
		return err
	}
	f := newFeed(b, s, ordered, paid)
	for i := range s.Inputs() {
		f.send(ctx, i)
	}
	return f.flush(ctx)
}

// remake makes topics anew. A topic goes a moment after its deletion has been answered.
func (b *broker) remake(ctx context.Context, topics ...string) error {
	if _, err := b.admin.DeleteTopics(ctx, topics...); err != nil {
		return err
	}
	b.client.PurgeTopicsFromClient(topics...) // it knows them by ids that are gone
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := b.create(wait, topics...)
		if !errors.Is(err, kerr.TopicAlreadyExists) {
			return err
		}
		if _, err := b.admin.DeleteTopics(wait, topics...); err != nil {
			return err
		}
		if err := sleep(wait, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// readable is how many records of a topic a reader of committed ones gets, markers of transactions included.
func (b *broker) readable(ctx context.Context, topic string) (int64, error) {
	var sum int64
	ends, err := b.ends(ctx, topic)
	for _, end := range ends {
		sum += end
	}
	return sum, err
}

// ends are the positions behind the last committed record of each partition.
func (b *broker) ends(ctx context.Context, topic string) (map[int32]int64, error) {
	listed, err := b.admin.ListCommittedOffsets(ctx, topic)
	if err == nil {
		err = listed.Error()
	}
	ends := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
	return ends, err
}

// reader returns a client that reads what is committed of a topic.
func (b *broker) reader(topic string) (*kgo.Client, error) {
	return kgo.NewClient(kgo.SeedBrokers(b.address), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(500*time.Millisecond))
}

// check reads a whole topic into a tally.
func (b *broker) check(ctx context.Context, topic string, tally *orders.Tally) error {
	left, err := b.ends(ctx, topic)
	if err != nil {
		return err
	}
	for p, end := range left {
		if end == 0 {
			delete(left, p)
		}
	}
	client, err := b.reader(topic)
	if err != nil {
		return err
	}
	defer client.Close()
	wait, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for len(left) > 0 {
		fetches := client.PollFetches(wait)
		if wait.Err() != nil {
			return fmt.Errorf("topic %s could not be read to its end: %w", topic, wait.Err())
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				tally.Add(r.Key, r.Value)
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	return nil
}

// clean deletes the topics and groups whose names begin so. Some take a moment to go.
func (b *broker) clean(ctx context.Context, prefix string) error {
	for {
		if err := sleep(ctx, 2*listingAge); err != nil {
			return fmt.Errorf("topics of %s may still be there: %w", prefix, err)
		}
		topics, err := b.admin.ListTopicsWithInternal(ctx)
		if err != nil {
			return err
		}
		left := slices.DeleteFunc(topics.Names(), func(name string) bool { return !strings.HasPrefix(name, prefix) })
		if len(left) == 0 {
			break
		}
		if _, err := b.admin.DeleteTopics(ctx, left...); err != nil {
			return err
		}
		b.client.PurgeTopicsFromClient(left...)
	}
	groups, err := b.admin.ListGroups(ctx)
	if err != nil {
		return err
	}
	for _, group := range groups.Groups() {
		if strings.HasPrefix(group, prefix) {
			if _, err := b.admin.DeleteGroups(ctx, group); err != nil {
				return err
			}
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
