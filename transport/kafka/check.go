package kafka

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
)

// RecordCheck tells which records the brokers, or Publish, would refuse. Such are too large as fill more than a batch by
// themselves, before compression: the batch of a topic is bounded by Config.BatchBytes and by its max.message.bytes, as it is
// now. A compacted topic takes none without a key. The settings of a topic take DescribeConfigs; who lacks that is told only
// what Config says.
func (t *Transport) RecordCheck(ctx context.Context, topic string) func(*framework.Record) error {
	is, err := t.settings(ctx, topic)
	if err != nil {
		t.config.Logger.Debug("kafka: the settings of a topic are not known", "topic", topic, "error", err)
	}
	limit, compacted := t.bounded(is[maxMessageBytes]), slices.Contains(policies(is), "compact")
	return func(r *framework.Record) error {
		if compacted && r.Key == "" {
			return fmt.Errorf("kafka: topic %q is compacted, and takes no record without a key: give it one by Sink.Key", topic)
		}
		size, over := larger(r, limit)
		if !over {
			return nil
		}
		return fmt.Errorf("kafka: topic %q takes up to %d bytes, and this one has %d: %w: raise Config.BatchBytes and the topic's max.message.bytes"+
			" and start again, or send less in one event", topic, limit, size, framework.ErrTooLarge)
	}
}

const maxMessageBytes = "max.message.bytes"

// bounded is Config.BatchBytes, or a topic's max.message.bytes where that is less.
func (t *Transport) bounded(maxMessage string) int {
	limit := t.config.BatchBytes
	if n, err := strconv.Atoi(maxMessage); err == nil {
		limit = min(limit, max(n, 1<<10))
	}
	return limit
}

// batchOverhead is what a batch takes beside its records, by the client's reckoning.
const batchOverhead = 65

// larger tells whether a record fills more than a batch of so many bytes by itself, and then how large it is.
func larger(r *framework.Record, limit int) (size int, over bool) {
	if bytesAtMost(r) <= limit {
		return 0, false
	}
	size = bytesOfBatch(r)
	return size, size > limit
}

// bytesAtMost is quick, and no less than bytesOfBatch: names of headers are as long as the longest, lengths as their
// varints are at most.
func bytesAtMost(r *framework.Record) int {
	const varint = 5
	n := batchOverhead + 6*varint + len(r.Value) + bytesOf(r) + headersOf(r)*(len(headerUUID)+2*varint)
	for name := range r.Metadata {
		n += len(name)
	}
	return n
}

// bytesOfBatch is the size of a batch with one record, as the client reckons before it compresses.
func bytesOfBatch(r *framework.Record) int {
	var e encoder
	e.reset([]framework.Record{*r}, 0)
	k := e.encode("", r, time.Time{})
	return batchOverhead + bytesOfRecord(&k)
}

// bytesOfRecord is the size of a record that is the first of its batch.
func bytesOfRecord(k *kgo.Record) int {
	field := func(n int) int { return kbin.VarintLen(int32(n)) + n }
	n := 3 + field(len(k.Key)) + field(len(k.Value)) + kbin.VarintLen(int32(len(k.Headers))) // attributes, times, offset
	for i := range k.Headers {
		n += field(len(k.Headers[i].Key)) + field(len(k.Headers[i].Value))
	}
	return field(n)
}
