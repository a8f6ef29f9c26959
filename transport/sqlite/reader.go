package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/internal/delivery"
)

func (t *Transport) subscribe(ctx context.Context, name string, config framework.SubscriberConfig) ([]delivery.Reader, error) {
	is, err := find(ctx, t.db, name)
	if err != nil {
		return nil, err
	}
	readers := make([]*reader, is.partitions)
	for partition := range readers {
		first, next, err := t.bounds(ctx, is, partition)
		if err != nil {
			return nil, err
		}
		position, ok := first, false
		if config.Start != nil {
			position, ok = config.Start(name, partition)
		}
		switch {
		case !ok:
			position = first
		case position < first:
			return nil, fmt.Errorf("sqlite: subscribe to %q: partition %d is to be read from position %d, but the oldest record kept is %d: "+
				"what lies between was deleted; bring it back, or drop the pipeline's state", name, partition, position, first)
		case position > next:
			return nil, fmt.Errorf("sqlite: subscribe to %q: partition %d is to be read from position %d, but it ends at %d: "+
				"the position is of another database", name, partition, position, next)
		}
		readers[partition] = &reader{
			t: t, topic: is, partition: partition, position: position,
			events: max(config.BatchEvents, 1), bytes: max(config.BatchBytes, 1), wake: make(chan struct{}, 1),
		}
	}
	started := make([]delivery.Reader, len(readers))
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, r := range readers {
		t.wakes[r.wake] = struct{}{}
		started[i] = r
	}
	return started, nil
}

// reader reads one partition for the delivery loop.
type reader struct {
	t             *Transport
	topic         topic
	partition     int
	position      int64 // of the next record to deliver
	events, bytes int
	started       bool
	wake          chan struct{}
	timer         *time.Timer
}

// Next reads what has arrived, up to the bounds.
func (r *reader) Next(ctx context.Context) (*framework.Batch, error) {
	b := &framework.Batch{Topic: r.topic.name, Partition: r.partition, Next: r.position, CaughtUp: true}
	size := 0
	err := r.t.read(ctx, r.topic, r.partition, r.position, r.events+1, func(record framework.Record) bool {
		size += len(record.Value)
		if n := len(b.Records); n >= r.events || n > 0 && size > r.bytes {
			b.CaughtUp = false
			return false
		}
		b.Records = append(b.Records, record)
		b.Next = record.Offset + 1
		return true
	})
	if err == nil && len(b.Records) > 0 && b.Records[0].Offset != r.position {
		err = fmt.Errorf("the record at position %d is gone; the next is %d: it was deleted while it was still to be read", r.position, b.Records[0].Offset)
	}
	if err != nil {
		err = fmt.Errorf("sqlite: read partition %d of %q: %w", r.partition, r.topic.name, err)
		return delivery.Failure(r.topic.name, r.partition, r.position, "", err), err
	}
	if len(b.Records) == 0 && r.started {
		r.arm()
		return nil, nil
	}
	r.started = true
	r.position = b.Next
	return b, nil
}

// arm looks again after a while: another process may have written.
func (r *reader) arm() {
	if r.timer != nil {
		r.timer.Reset(r.t.config.PollInterval)
		return
	}
	r.timer = time.AfterFunc(r.t.config.PollInterval, func() {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	})
}

func (r *reader) Wake() <-chan struct{} { return r.wake }

func (r *reader) Acked(int64) {}

func (r *reader) Close() {
	if r.timer != nil {
		r.timer.Stop()
	}
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	delete(r.t.wakes, r.wake)
}

// Read calls fn for the records that a partition keeps from an offset on, in order, and returns the offset to go on at:
// the one after the last record for which fn gave no error, which is returned.
func (t *Transport) Read(ctx context.Context, name string, partition int, from int64, fn func(framework.Record) error) (next int64, err error) {
	is, err := find(ctx, t.db, name)
	if err != nil {
		return from, err
	}
	first, _, err := t.bounds(ctx, is, partition)
	if err != nil {
		return from, err
	}
	next = max(from, first)
	var failed error
	err = t.read(ctx, is, partition, next, -1, func(record framework.Record) bool {
		if failed = fn(record); failed == nil {
			next = record.Offset + 1
		}
		return failed == nil
	})
	if err != nil {
		err = fmt.Errorf("sqlite: read partition %d of %q: %w", partition, name, err)
	}
	if failed != nil {
		err = failed
	}
	return next, err
}

// read gives records from a position on to fn, as long as it wants more and up to a number; negative: all.
func (t *Transport) read(ctx context.Context, is topic, partition int, from int64, most int, fn func(framework.Record) bool) error {
	rows, err := t.db.QueryContext(ctx, `SELECT position, id, type, source, time, partitionkey, data, data IS NULL, metadata, causationids, step, watermark
FROM millrace_topics_record WHERE topic = ? AND partition = ? AND position >= ? ORDER BY position LIMIT ?`, is.id, partition, from, most)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		record, err := scan(rows)
		if err != nil {
			return err
		}
		if !fn(record) {
			return nil
		}
	}
	return rows.Err()
}

// scan reads a row. What another program has written and we cannot read becomes a fault of the record.
func scan(rows *sql.Rows) (r framework.Record, err error) {
	var at, metadata string
	var none bool // the driver gives nil for bytes that are empty, too
	if err := rows.Scan(&r.Offset, &r.ID, &r.Type, &r.Source, &at, &r.Key, &r.Value, &none, &metadata, &r.Causes, &r.Step, &r.Watermark); err != nil {
		return r, err
	}
	if r.Value == nil && !none {
		r.Value = []byte{}
	}
	if at != "" {
		if r.Time, err = time.Parse(time.RFC3339Nano, at); err != nil {
			r.Err = framework.Permanent(fmt.Errorf("time: %w", err))
		}
	}
	if metadata != "" {
		if err := json.Unmarshal([]byte(metadata), &r.Metadata); err != nil {
			r.Err = framework.Permanent(fmt.Errorf("metadata: %w", err))
		}
	}
	return r, nil
}
