package main

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/benchmarks/peers/internal/orders"
	"github.com/millrace/millrace/benchmarks/peers/internal/system"
)

// enrich is W1, in a consumer group. Partitions are given back only between two polls, when what came of the last is
// written and committed.
func enrich(ctx context.Context, task *system.Task, lib library) error {
	client, err := connect(task, kgo.ConsumeTopics(task.Orders), kgo.ConsumerGroup(task.Group), kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer client.CloseAllowingRebalance()
	w, rates, tiers := &writer{client: client}, orders.Rates(), orders.Tiers()
	committed := time.Now()
	for {
		wait, cancel := context.WithTimeout(ctx, system.CommitInterval)
		fetches := client.PollRecords(wait, 10_000)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			task.Consuming()
			var o orders.Order
			if err := lib.unmarshal(r.Value, &o); err != nil {
				return err
			}
			if !o.Wanted() {
				continue
			}
			value, err := lib.marshal(&orders.Priced{Order: o, Rate: rates[o.Currency], Tier: tiers[o.Customer]})
			if err != nil {
				return err
			}
			w.send(ctx, r.Key, value)
		}
		if time.Since(committed) >= system.CommitInterval {
			if err := w.flush(ctx); err != nil {
				return err
			}
			if err := client.CommitUncommittedOffsets(ctx); err != nil {
				return err
			}
			committed = time.Now()
		}
		client.AllowRebalance()
	}
}
