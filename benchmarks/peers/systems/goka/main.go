// Command goka is Goka as a system under test: a processor for each workload, with encoding/json. In W2 the histories
// are Goka's group table, in a compact form.
package main

import (
	"context"
	"encoding/json"
	"path/filepath"
	"time"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
	"github.com/lovoo/goka/codec"
	"github.com/lovoo/goka/storage"

	"github.com/millrace/millrace/benchmarks/peers/internal/orders"
	"github.com/millrace/millrace/benchmarks/peers/internal/system"
)

func main() { system.Main(run) }

func run(ctx context.Context, task *system.Task) error {
	config := goka.DefaultConfig()
	config.Version = sarama.V3_6_0_0
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Interval = system.CommitInterval
	config.Consumer.Group.Session.Timeout = system.SessionTimeout
	config.Consumer.Group.Heartbeat.Interval = system.Heartbeat
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Idempotent = true
	config.Net.MaxOpenRequests = 1 // what sarama's idempotence needs
	config.Producer.Compression = sarama.CompressionLZ4
	config.Producer.Flush.Frequency = system.Linger
	config.Producer.Flush.Bytes = 64 << 10
	goka.ReplaceGlobalConfig(config)
	topics := goka.NewTopicManagerConfig()
	topics.Table.Replication, topics.Stream.Replication = 1, 1
	topics.CreateTopicTimeout = 10 * time.Second
	graph := enrich(task)
	if task.Workload == "W2" {
		graph = join(task)
	}
	processor, err := goka.NewProcessor([]string{task.Brokers}, graph,
		goka.WithHasher(newJavaHash),
		goka.WithTopicManagerBuilder(goka.TopicManagerBuilderWithTopicManagerConfig(topics)),
		goka.WithStorageBuilder(storage.DefaultBuilder(filepath.Join(task.State, "tables"))))
	if err != nil {
		return err
	}
	return processor.Run(ctx)
}

// enrich is W1.
func enrich(task *system.Task) *goka.GroupGraph {
	out, rates, tiers := goka.Stream(task.Out), orders.Rates(), orders.Tiers()
	return goka.DefineGroup(goka.Group(task.Group),
		goka.Input(goka.Stream(task.Orders), jsonCodec[orders.Order]{}, func(ctx goka.Context, message any) {
			task.Consuming()
			if o := message.(*orders.Order); o.Wanted() {
				ctx.Emit(out, ctx.Key(), &orders.Priced{Order: *o, Rate: rates[o.Currency], Tier: tiers[o.Customer]})
			}
		}),
		goka.Output(out, jsonCodec[orders.Priced]{}))
}

// join is W2.
func join(task *system.Task) *goka.GroupGraph {
	out := goka.Stream(task.Out)
	return goka.DefineGroup(goka.Group(task.Group),
		goka.Input(goka.Stream(task.Orders), new(codec.Bytes), func(ctx goka.Context, message any) {
			task.Consuming()
			var o orders.Order
			if err := json.Unmarshal(message.([]byte), &o); err != nil {
				ctx.Fail(err)
			}
			meet(ctx, out, event{'o', o.ID, o.ID, message.([]byte)}, o.Amount)
		}),
		goka.Input(goka.Stream(task.Payments), new(codec.Bytes), func(ctx goka.Context, message any) {
			task.Consuming()
			var p orders.Payment
			if err := json.Unmarshal(message.([]byte), &p); err != nil {
				ctx.Fail(err)
			}
			meet(ctx, out, event{'p', p.ID, p.Order, message.([]byte)}, p.Amount)
		}),
		goka.Output(out, jsonCodec[orders.Confirmed]{}),
		goka.Persist(historyCodec{}))
}

// meet adds an event to the history of its customer, unless it was added before the last kill, and confirms its order
// when the other half is there.
func meet(ctx goka.Context, out goka.Stream, e event, amount int) {
	past, _ := ctx.Value().(history)
	known, other := false, ""
	for _, p := range past {
		switch {
		case p.id == e.id:
			known = true
		case p.order == e.order:
			other = p.id
		}
	}
	if !known {
		ctx.SetValue(append(past, e))
	}
	if other == "" {
		return
	}
	payment := e.id
	if e.kind == 'o' {
		payment = other
	}
	confirmed := orders.Confirm(e.order, payment, ctx.Key(), amount)
	ctx.Emit(out, ctx.Key(), &confirmed)
}
