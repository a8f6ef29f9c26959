package kafka

import (
	"context"
	"fmt"
)

// Span tells which offsets a partition has. It asks for no other partition of the topic: each task that takes one over
// does, more than once.
func (t *Transport) Span(ctx context.Context, topic string, partition int) (start, end int64, err error) {
	if start, err = t.start(ctx, topic, partition); err != nil {
		return 0, 0, err
	}
	isolation := readCommitted
	if t.config.ReadUncommitted {
		isolation = readUncommitted
	}
	if end, err = t.askOffset(ctx, place{topic, int32(partition)}, latestOffset, isolation); err != nil {
		return 0, 0, err
	}
	return start, max(start, end), nil
}

// start is the first of the two.
func (t *Transport) start(ctx context.Context, topic string, partition int) (int64, error) {
	if t.ctx.Err() != nil {
		return 0, ErrClosed
	}
	if partition < 0 || partition > maxPartitions {
		return 0, fmt.Errorf("kafka: topic %q has no partition %d", topic, partition)
	}
	return t.oldest(ctx, topic, int32(partition))
}
