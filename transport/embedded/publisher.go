package embedded

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
)

// Append queues records for one partition into a commit, as one chunk. They are visible when the commit
// is done.
func (t *Transport) Append(b *microstore.Batch, name string, partition int, records []framework.Record) error {
	topic, err := t.topic(context.Background(), name)
	if err != nil {
		return err
	}
	if partition < 0 || partition >= len(topic.logs) {
		return fmt.Errorf("embedded: append to %q: partition %d of %d", name, partition, len(topic.logs))
	}
	s := scratch.Get().(*scatter)
	defer scratch.Put(s)
	topic.append(b, partition, records, s.all(len(records)))
	return nil
}

// append queues the records that picked names as one chunk.
func (t *topic) append(b *microstore.Batch, partition int, records []framework.Record, picked []int32) {
	if len(picked) == 0 {
		return
	}
	lowest, highest := times(records, picked)
	t.logs[partition].Append(b, len(picked), lowest, highest, framework.AppendRecords(nil, records, picked))
}

// times returns the least and the greatest event time; the present when no record has one.
func times(records []framework.Record, picked []int32) (lowest, highest int64) {
	lowest, highest = math.MaxInt64, math.MinInt64
	for _, index := range picked {
		if r := &records[index]; !r.Time.IsZero() && !r.Watermark {
			n := nanoseconds(r.Time)
			lowest, highest = min(lowest, n), max(highest, n)
		}
	}
	if lowest > highest {
		now := time.Now().UnixNano()
		return now, now
	}
	return lowest, highest
}

// nanoseconds is UnixNano for all times: those out of its range are at its ends.
func nanoseconds(t time.Time) int64 {
	switch seconds := t.Unix(); {
	case seconds > math.MaxInt64/int64(time.Second)-1:
		return math.MaxInt64
	case seconds < math.MinInt64/int64(time.Second)+1:
		return math.MinInt64
	}
	return t.UnixNano()
}

// publishBytes bounds what a Publish puts into one commit.
const publishBytes = 1 << 20

type publisher struct{ t *Transport }

// Publish commits records, in parts of about a megabyte. Those of one key keep their order.
func (p publisher) Publish(ctx context.Context, name string, records []framework.Record) error {
	topic, err := p.t.topic(ctx, name)
	if err != nil {
		return err
	}
	for len(records) > 0 {
		n, size := 0, 0
		for n < len(records) && (n == 0 || size < publishBytes) {
			size += 64 + len(records[n].Value)
			n++
		}
		if err := p.commit(ctx, topic, records[:n]); err != nil {
			return fmt.Errorf("embedded: publish to %q: %w", name, err)
		}
		records = records[n:]
	}
	return nil
}

func (p publisher) commit(ctx context.Context, t *topic, records []framework.Record) error {
	b := p.t.store.NewBatch()
	s := scratch.Get().(*scatter)
	defer scratch.Put(s)
	order, ends := s.byPartition(records, len(t.logs))
	start := int32(0)
	for partition, end := range ends {
		t.append(b, partition, records, order[start:end])
		start = end
	}
	err := p.t.store.Commit(ctx, b)
	if err != nil {
		b.Rollback(microstore.Mark{})
	}
	return err
}

// assign tells the partition of a record: by its key, else by its id, so that one that is sent again goes
// to the same place. Records without both share one.
func assign(r *framework.Record, n int) int {
	if r.Key != "" {
		return framework.Partition(r.Key, n)
	}
	return framework.Partition(r.ID, n)
}

func (p publisher) Close() error { return nil }
