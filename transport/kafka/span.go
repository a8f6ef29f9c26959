package kafka

import (
	"context"
	"fmt"
)

// Span tells which offsets a partition has. It asks for no other partition of the topic: each task that takes one over
// does, more than once.
func (t *Transport) Span(ctx context.Context, topic string, partition int) (start, end int64, err error) {
	if t.ctx.Err() != nil {
		return 0, 0, ErrClosed
	}
	if partition < 0 || partition > maxPartitions {
		return 0, 0, fmt.Errorf("kafka: topic %q has no partition %d", topic, partition)
	}
	at, isolation := place{topic, int32(partition)}, readCommitted
	if t.config.ReadUncommitted {
		isolation = readUncommitted
	}
	if start, err = t.askOffset(ctx, at, earliestOffset, readUncommitted); err != nil {
		return 0, 0, err
	}
	if end, err = t.askOffset(ctx, at, latestOffset, isolation); err != nil {
		return 0, 0, err
	}
	return start, max(start, end), nil
}
