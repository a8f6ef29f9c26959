package kafka

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
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

// ReadSpan reads a part of a partition, with a client of its own. What fails for a time is tried again until ctx ends.
func (t *Transport) ReadSpan(ctx context.Context, topic string, partition int, from, to int64, visit func([]framework.Record) error) error {
	start, _, err := t.Span(ctx, topic, partition)
	if err != nil {
		return err
	}
	if from = max(from, start); from >= to {
		return nil
	}
	at := place{topic, int32(partition)}
	client, err := kgo.NewClient(append(t.config.reading(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {at.partition: kgo.NewOffset().At(from)}}))...)
	if err != nil {
		return fmt.Errorf("kafka: config: %w", err)
	}
	defer client.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	var d decoder
	var records []framework.Record
	for from < to {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("kafka: read %q: %w", topic, context.Cause(ctx))
		}
		for _, fetched := range fetches.Errors() {
			if endsReading(fetched.Err) {
				return fmt.Errorf("kafka: read partition %d of %q from offset %d: %w", partition, topic, from, fetched.Err)
			}
		}
		records = records[:0]
		fetches.EachRecord(func(k *kgo.Record) {
			if from = k.Offset + 1; k.Offset < to && !k.Attrs.IsControl() {
				records = append(records, d.decode(k))
			}
		})
		if len(records) > 0 {
			if err := visit(records); err != nil {
				return err
			}
		}
	}
	return nil
}
