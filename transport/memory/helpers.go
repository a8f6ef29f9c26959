package memory

import (
	"context"
	"fmt"

	"github.com/millrace/millrace/framework"
)

// Publish sends records to a topic, waiting for room until the transport is closed.
func (t *Transport) Publish(topic string, records ...framework.Record) error {
	return publisher{t}.Publish(context.Background(), topic, records)
}

// Records returns the records that a topic keeps, in the order of partitions and then of offsets; none
// when there is no such topic.
func (t *Transport) Records(topic string) []framework.Record {
	t.mu.RLock()
	found := t.topics[topic]
	t.mu.RUnlock()
	if found == nil {
		return nil
	}
	return found.records()
}

// Read calls fn for the records that a partition keeps from an offset on, in order, and returns the offset to go on at: the
// one after the last record for which fn gave no error, which is returned.
func (t *Transport) Read(ctx context.Context, name string, partition int, from int64, fn func(framework.Record) error) (next int64, err error) {
	topic, err := t.topic(name)
	if err != nil {
		return from, err
	}
	if partition < 0 || partition >= len(topic.partitions) {
		return from, fmt.Errorf("memory: topic %q has partitions 0 to %d, not %d", name, len(topic.partitions)-1, partition)
	}
	records, next := topic.from(partition, from)
	for i := range records {
		if err := ctx.Err(); err != nil {
			return next, err
		}
		if err := fn(records[i]); err != nil {
			return next, err
		}
		next = records[i].Offset + 1
	}
	return next, nil
}

// End ends topics: further records are refused, and subscribers receive a batch with End for each
// partition when they have read the rest.
func (t *Transport) End(topics ...string) error {
	for _, name := range topics {
		topic, err := t.topic(name)
		if err != nil {
			return fmt.Errorf("end: %w", err)
		}
		topic.end()
	}
	return nil
}

// Forget drops an engine's group: what it has not acknowledged holds no record back any more.
func (t *Transport) Forget(group string) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, topic := range t.topics {
		topic.forget("batch/" + group)
	}
}
