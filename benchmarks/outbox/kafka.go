package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// idHeaders are the headers in which systems have an event's id.
var idHeaders = []string{"ce_id", "_watermill_message_uuid", "id"}

const partitions = 4

func (b *bench) createTopic() error {
	client, err := kgo.NewClient(kgo.SeedBrokers(b.broker))
	if err != nil {
		return err
	}
	defer client.Close()
	answer, err := kadm.NewClient(client).CreateTopic(b.ctx, partitions, 1, nil, b.name)
	if err == nil {
		err = answer.Err
	}
	if err != nil {
		return fmt.Errorf("create the topic %s: %w", b.name, err)
	}
	return nil
}

func (b *bench) dropTopic() error {
	client, err := kgo.NewClient(kgo.SeedBrokers(b.broker))
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = kadm.NewClient(client).DeleteTopics(b.ctx, b.name)
	return err
}

// consume reads the topic into the ledger until all events are there, or ctx is done.
func (b *bench) consume(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(b.broker), kgo.ConsumeTopics(b.name), kgo.FetchMaxWait(500*time.Millisecond),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		select {
		case <-b.ledger.done:
			return nil
		default:
		}
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("read the topic %s: %w", b.name, err)
		}
		fetches.EachRecord(func(r *kgo.Record) { b.ledger.arrived(idOf(r)) })
	}
}

func idOf(r *kgo.Record) string {
	for _, name := range idHeaders {
		for _, h := range r.Headers {
			if h.Key == name {
				return string(h.Value)
			}
		}
	}
	return "a record without an id"
}
