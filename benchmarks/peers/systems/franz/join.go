package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/benchmarks/peers/internal/orders"
	"github.com/millrace/millrace/benchmarks/peers/internal/system"
)

// entry is an event in the history of a customer. The whole event is in the database, and what a search needs in memory.
type entry struct {
	kind      byte // 'o', 'p'
	id, order string
}

// joiner is W2. One batch of the database holds what a poll brought and the positions behind it. All histories are in
// memory as well, so nothing is read back until the next start. There is no group: the positions are in the database,
// and where that is lost, everything is read and sent again.
type joiner struct {
	db        *pebble.DB
	histories map[string][]entry
	positions map[string]map[int32]int64
	lib       library
	task      *system.Task
	w         *writer
}

func join(ctx context.Context, task *system.Task, lib library) error {
	db, err := pebble.Open(task.State, &pebble.Options{
		MemTableSize: 64 << 20, Cache: pebble.NewCache(64 << 20), Logger: quiet{},
	})
	if err != nil {
		return err
	}
	j := &joiner{db: db, histories: map[string][]entry{}, positions: map[string]map[int32]int64{}, lib: lib, task: task}
	return errors.Join(j.run(ctx), db.Close())
}

func (j *joiner) run(ctx context.Context) error {
	if err := j.load(); err != nil {
		return err
	}
	assigned := map[string]map[int32]kgo.Offset{}
	for _, topic := range []string{j.task.Orders, j.task.Payments} {
		assigned[topic] = map[int32]kgo.Offset{}
		if j.positions[topic] == nil {
			j.positions[topic] = map[int32]int64{}
		}
		for p := range int32(orders.Partitions) {
			assigned[topic][p] = kgo.NewOffset().At(j.positions[topic][p])
		}
	}
	client, err := connect(j.task, kgo.ConsumePartitions(assigned))
	if err != nil {
		return err
	}
	defer client.Close()
	j.w = &writer{client: client}
	for {
		fetches := client.PollRecords(ctx, 10_000)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := j.poll(ctx, fetches); err != nil {
			return err
		}
	}
}

// poll appends events to histories, sends what follows, and commits both.
func (j *joiner) poll(ctx context.Context, fetches kgo.Fetches) error {
	batch := j.db.NewBatch()
	defer func() { _ = batch.Close() }()
	for it := fetches.RecordIter(); !it.Done(); {
		r := it.Next()
		j.task.Consuming()
		if err := j.event(ctx, batch, r); err != nil {
			return err
		}
		j.positions[r.Topic][r.Partition] = r.Offset + 1
	}
	for topic, partitions := range j.positions {
		for p, position := range partitions {
			key := "position/" + topic + "/" + strconv.Itoa(int(p))
			if err := batch.Set([]byte(key), binary.BigEndian.AppendUint64(nil, uint64(position)), nil); err != nil {
				return err
			}
		}
	}
	if err := j.w.flush(ctx); err != nil {
		return err
	}
	return batch.Commit(pebble.NoSync) // survives kill -9, as the others
}

func (j *joiner) event(ctx context.Context, batch *pebble.Batch, r *kgo.Record) error {
	var e entry
	var amount int
	if r.Topic == j.task.Orders {
		var o orders.Order
		if err := j.lib.unmarshal(r.Value, &o); err != nil {
			return err
		}
		e, amount = entry{'o', o.ID, o.ID}, o.Amount
	} else {
		var p orders.Payment
		if err := j.lib.unmarshal(r.Value, &p); err != nil {
			return err
		}
		e, amount = entry{'p', p.ID, p.Order}, p.Amount
	}
	customer := string(r.Key)
	history := j.histories[customer]
	key := "history/" + customer + "/" + strconv.Itoa(1e9+len(history)) + "/" + string(e.kind) + "/" + e.id + "/" + e.order
	if err := batch.Set([]byte(key), r.Value, nil); err != nil {
		return err
	}
	j.histories[customer] = append(history, e)
	for _, other := range history {
		if other.order != e.order || other.kind == e.kind {
			continue
		}
		payment := e.id
		if e.kind == 'o' {
			payment = other.id
		}
		confirmed := orders.Confirm(e.order, payment, customer, amount)
		value, err := j.lib.marshal(&confirmed)
		if err != nil {
			return err
		}
		j.w.send(ctx, r.Key, value)
	}
	return nil
}

// load reads histories and positions back.
func (j *joiner) load() error {
	it, err := j.db.NewIter(nil)
	if err != nil {
		return err
	}
	for it.First(); it.Valid(); it.Next() {
		part := strings.Split(string(it.Key()), "/")
		if part[0] == "history" {
			j.histories[part[1]] = append(j.histories[part[1]], entry{part[3][0], part[4], part[5]})
			continue
		}
		p, err := strconv.Atoi(part[2])
		if err != nil {
			return errors.Join(err, it.Close())
		}
		if j.positions[part[1]] == nil {
			j.positions[part[1]] = map[int32]int64{}
		}
		j.positions[part[1]][int32(p)] = int64(binary.BigEndian.Uint64(it.Value()))
	}
	return it.Close()
}

// quiet leaves out what Pebble tells of its work.
type quiet struct{}

func (quiet) Infof(string, ...any) {}

func (quiet) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}
