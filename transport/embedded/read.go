package embedded

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
)

func (t *Transport) log(name string, partition int) (*microstore.Log, error) {
	topic, err := t.find(name)
	if err != nil {
		return nil, err
	}
	if partition < 0 || partition >= len(topic.logs) {
		return nil, fmt.Errorf("embedded: topic %q has partitions 0 to %d, not %d", name, len(topic.logs)-1, partition)
	}
	return topic.logs[partition], nil
}

// OffsetAt returns an offset to replay a partition from in order to see all records from a time on, by
// event time; the end of the partition when there are none. Some earlier records may follow it, since
// chunks are looked at, not records.
func (t *Transport) OffsetAt(name string, partition int, at time.Time) (int64, error) {
	log, err := t.log(name, partition)
	if err != nil {
		return 0, err
	}
	offset, err := log.OffsetAt(nanoseconds(at))
	if err != nil {
		return 0, fmt.Errorf("embedded: offset of %q, partition %d, at %s: %w", name, partition, at, err)
	}
	return offset, nil
}

// Bounds returns the offset of the oldest record that a partition keeps, and of the next one it gets.
func (t *Transport) Bounds(name string, partition int) (start, end int64, err error) {
	log, err := t.log(name, partition)
	if err != nil {
		return 0, 0, err
	}
	return log.Start(), log.End(), nil
}

// Read calls fn for the records of a partition from an offset on, in order, up to the end as it is when
// Read is called; an offset before the oldest record means the oldest. It returns the offset to go on at:
// the one after the last record for which fn gave no error. An error of fn ends reading and is returned.
func (t *Transport) Read(ctx context.Context, name string, partition int, from int64, fn func(framework.Record) error) (next int64, err error) {
	log, err := t.log(name, partition)
	if err != nil {
		return from, err
	}
	next = max(from, log.Start())
	for end := log.End(); next < end; {
		if err := ctx.Err(); err != nil {
			return next, err
		}
		chunks, err := log.Read(next, readBytes)
		if err != nil {
			return next, fmt.Errorf("embedded: read partition %d of %q: %w", partition, name, err)
		}
		for i := range chunks {
			records, err := decode(nil, &chunks[i], next)
			if err != nil {
				return next, fmt.Errorf("embedded: read partition %d of %q: %w", partition, name, err)
			}
			for k := range records {
				if next = records[k].Offset; next >= end {
					return next, nil
				}
				if err := fn(records[k]); err != nil {
					return next, err
				}
				next++
			}
		}
	}
	return next, nil
}
