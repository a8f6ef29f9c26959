package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// consumer is one consuming client. Its one goroutine polls the client and hands what comes to the readers of the
// partitions.
//
// The client fetches ahead of what is polled, and this polls at once whatever there is: what bounds memory is that a
// reader that holds Config.ReadBytes pauses its partition until it holds a quarter of it, and that a fetch is small
// (fetchSize).
type consumer struct {
	config  *Config
	member  bool // of a group, which says what is read
	client  *kgo.Client
	oldest  func(ctx context.Context, topic string, partition int32) (int64, error)
	fatal   func(error)                       // hears why a member cannot be in its group
	has     func(context.Context, place) bool // whether a member has a partition; nil for who is none
	marked  func(place) int64                 // how far it has marked one; nil for who is none
	stop    context.CancelFunc                // ends polling
	cut     context.CancelFunc                // ends all of the client
	stopped chan struct{}

	mu      sync.Mutex
	readers map[place]*reader
	closed  bool
}

// readParts is how many fetches of a partition fit Config.ReadBytes, decompressed.
const readParts = 4

// newConsumer makes a client, for which begin is to be called. With options of a group it is a member of that.
func (t *Transport) newConsumer(group ...kgo.Opt) (*consumer, error) {
	config := t.config
	c := &consumer{
		config: &config, member: len(group) > 0, oldest: t.oldest,
		stopped: make(chan struct{}), readers: make(map[place]*reader),
	}
	ctx, cut := context.WithCancel(context.Background())
	size := newFetchSize(&config)
	all, part := size.bytes()
	options := append(t.config.reading(), kgo.WithContext(ctx), kgo.WithHooks(size), kgo.FetchMaxBytes(all), kgo.FetchMaxPartitionBytes(part))
	client, err := kgo.NewClient(append(options, group...)...)
	if err != nil {
		cut()
		return nil, fmt.Errorf("kafka: config: %w", err)
	}
	c.client, c.cut, size.client = client, cut, client
	return c, nil
}

// begin begins polling.
func (c *consumer) begin() {
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	go c.run(ctx)
}

func (c *consumer) run(ctx context.Context) {
	defer close(c.stopped)
	for {
		fetches := c.client.PollFetches(ctx)
		done := ctx.Err() != nil || fetches.IsClientClosed()
		if !done {
			fetches.EachPartition(func(p kgo.FetchTopicPartition) { c.take(ctx, p) })
		}
		if c.member {
			c.client.AllowRebalance()
		}
		if done {
			return
		}
	}
}

// take hands what was fetched of a partition to its reader.
func (c *consumer) take(ctx context.Context, p kgo.FetchTopicPartition) {
	if p.Topic == "" { // an error of the client itself
		c.clientError(p.Err)
		return
	}
	at := place{p.Topic, p.Partition}
	r := c.reader(at)
	if r == nil {
		return // it was removed meanwhile
	}
	if len(p.Records) > 0 || p.Err == nil {
		end := p.LastStableOffset
		if c.config.ReadUncommitted || end < 0 {
			end = p.HighWatermark
		}
		r.put(p.Records, end)
	}
	if p.Err != nil {
		c.failed(ctx, r, p.Err)
	}
}

// clientError deals with an error that is of no partition: all partitions end when the brokers do not let this
// program in; else the client goes on trying.
func (c *consumer) clientError(err error) {
	if err == nil {
		return
	}
	if !isOneOf(err, shutOut) {
		c.config.client.again("kafka: reading is tried again", "error", err)
		return
	}
	if errors.Is(err, kerr.FencedInstanceID) {
		err = fmt.Errorf("another program has InstanceID %q: give each program of the group one of its own, and start it once: %w",
			c.config.InstanceID, err)
	}
	if c.fatal != nil {
		c.fatal(err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.readers {
		r.fail(fmt.Errorf("kafka: read %q: %w", r.at.topic, err))
	}
}

// needs says what the user lacks who may not read.
func needs(err error) string {
	switch {
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return ": give the user the operation Read on the topic"
	case errors.Is(err, kerr.GroupAuthorizationFailed):
		return ": give the user the operation Read on the group"
	}
	return ""
}

// failed ends a partition that cannot be read any further, unless its records are gone and the user said what then.
func (c *consumer) failed(ctx context.Context, r *reader, err error) {
	oldest := int64(0)
	if kerr.IsRetriable(err) && !errors.Is(err, kerr.UnknownTopicOrPartition) && !errors.Is(err, kerr.UnknownTopicID) {
		c.config.client.again("kafka: reading is tried again", "topic", r.at.topic, "partition", r.at.partition, "error", err)
		return
	}
	if errors.Is(err, kerr.OffsetOutOfRange) {
		if c.has != nil && !c.has(ctx, r.at) {
			select { // the group is about to say that it is another's; until then the client asks for it again and again
			case <-time.After(askAgain):
			case <-ctx.Done():
			}
			return
		}
		position := r.fetched()
		asking, cancel := context.WithTimeout(ctx, oldestPatience)
		oldest, err = c.oldest(asking, r.at.topic, r.at.partition)
		cancel()
		switch {
		case err == nil && c.marked != nil && position < oldest && oldest <= c.marked(r.at): // the engine has them from elsewhere
		case err == nil:
			err = c.config.outOfRange(r.at, position, oldest, position)
		case passes(err): // the client asks for the records again, and learns again that they are gone
			c.config.client.again("kafka: reading is tried again", "topic", r.at.topic, "partition", r.at.partition, "error", err)
			return
		}
	} else {
		err = fmt.Errorf("kafka: read partition %d of %q: %w%s", r.at.partition, r.at.topic, err, needs(err))
	}
	if err != nil {
		c.pause(r.at) // or the client would ask for it again and again
		r.fail(err)
		return
	}
	r.skipTo(oldest)
	c.client.SetOffsets(map[string]map[int32]kgo.EpochOffset{r.at.topic: {r.at.partition: {Epoch: -1, Offset: oldest}}})
}

// oldestPatience is how long all partitions may wait until it is known where one of them begins.
const oldestPatience = 2 * time.Second

// askAgain is how long is waited for the group to take away a partition that another member has let go of records of.
const askAgain = 100 * time.Millisecond

// outOfRange says what to do about a position that is not between start and end, the partition's oldest and next
// offset: an error, or nil to go on at the start. It decides for the beginning of reading and for later alike.
func (c *Config) outOfRange(at place, position, start, end int64) error {
	switch {
	case position > end:
		// Going back is no choice: the engine takes what has a lower offset for done already.
		return fmt.Errorf("kafka: read %q: partition %d is to be read from offset %d, but it ends at %d: the position is of"+
			" another topic, or this one was made anew or lost records; remove the state of the pipeline or restore the topic",
			at.topic, at.partition, position, end)
	case position >= start:
		return fmt.Errorf("kafka: read %q: the brokers refuse offset %d of partition %d, though its oldest is %d",
			at.topic, position, at.partition, start)
	case !c.SkipGone:
		return fmt.Errorf("kafka: read %q: partition %d is to be read from offset %d, but the oldest record kept is %d: records"+
			" are gone by retention or deletion; rebuild the state that needs them (a pipeline with Changelog has it), or set Config.SkipGone to go on without them",
			at.topic, at.partition, position, start)
	}
	c.Logger.Warn("kafka: records are gone before they were read; reading goes on at the oldest that is kept",
		"topic", at.topic, "partition", at.partition, "position", position, "oldest", start, "gone", start-position)
	return nil
}

// end is where a partition ends, as of the last fetch; not ok when it is not read, or cannot be.
func (c *consumer) end(at place) (int64, bool) {
	r := c.reader(at)
	if r == nil {
		return 0, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.end, r.end != noPosition
}

// reader is that of a partition; nil when it is not read.
func (c *consumer) reader(at place) *reader {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.readers[at]
}

// add registers readers before their partitions are fetched.
func (c *consumer) add(readers ...*reader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range readers {
		c.readers[r.at] = r
	}
}

// remove forgets a reader, and its partition is no longer fetched.
func (c *consumer) remove(r *reader) {
	c.mu.Lock()
	mine := c.readers[r.at] == r
	if mine {
		delete(c.readers, r.at)
	}
	closed := c.closed
	c.mu.Unlock()
	if !mine || closed {
		return
	}
	if !c.member {
		c.client.RemoveConsumePartitions(map[string][]int32{r.at.topic: {r.at.partition}})
	}
	c.resume(r.at) // a pause would outlast the reader
}

func (c *consumer) pause(at place) {
	c.client.PauseFetchPartitions(map[string][]int32{at.topic: {at.partition}})
}

func (c *consumer) resume(at place) {
	c.client.ResumeFetchPartitions(map[string][]int32{at.topic: {at.partition}})
}

// move has the client of a member go on from other offsets than it was given, as soon as it has them. False: ctx has ended
// before.
func (c *consumer) move(ctx context.Context, partition int32, to map[string]int64) bool {
	offsets := make(map[string]map[int32]kgo.EpochOffset)
	for topic, at := range to {
		offsets[topic] = map[int32]kgo.EpochOffset{partition: {Epoch: -1, Offset: at}}
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for !c.given(partition, to) { // what it has not got is passed over, without a word
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	c.client.SetOffsets(offsets)
	return true
}

// given tells whether the client has been given a partition of topics.
func (c *consumer) given(partition int32, topics map[string]int64) bool {
	all := c.client.CommittedOffsets() // of those that it has, whatever is committed
	for topic := range topics {
		if _, ok := all[topic][partition]; !ok {
			return false
		}
	}
	return true
}

// leaving is how long a member tries to leave its group in good order. The group's coordinator may hold back its answer
// for as long as it waits for another member, which may be dead; the group then learns by the session's end.
const leaving = 10 * time.Second

// close ends polling and lets go of the connections; a member leaves its group first.
func (c *consumer) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	<-c.stopped
	defer c.cut()
	left := time.AfterFunc(leaving, c.cut)
	defer left.Stop()
	c.client.CloseAllowingRebalance()
}
