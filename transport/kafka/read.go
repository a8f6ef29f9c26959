package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
)

// Read calls fn for the records of a partition from an offset on, in order, up to the end as it is when Read is
// called; an offset before the oldest record means the oldest. It returns the offset to go on at: the one after the
// last record for which fn gave no error. An error of fn ends reading and is returned. So is one that nothing has come
// for Config.Wait, though the end is not reached. Read belongs to no group and leaves none behind; it takes connections
// of its own, and reads ahead no more than a subscriber does.
func (t *Transport) Read(ctx context.Context, name string, partition int, from int64, fn func(framework.Record) error) (next int64, err error) {
	n, err := t.find(ctx, name)
	if err != nil {
		return from, err
	}
	if partition < 0 || partition >= n {
		return from, fmt.Errorf("kafka: topic %q has partitions 0 to %d, not %d", name, n-1, partition)
	}
	all, err := t.ranges(ctx, name, n)
	if err != nil {
		return from, err
	}
	r := span{max(from, all[partition].start), all[partition].end}
	next = r.start
	err = t.readSpan(ctx, place{name, int32(partition)}, r, true, func(records []framework.Record) error {
		for i := range records {
			if err := fn(records[i]); err != nil {
				return err
			}
			next = records[i].Offset + 1
		}
		return nil
	})
	if err == nil {
		next = max(r.start, r.end) // behind the last record there may be what is none
	}
	return next, err
}

// ReadSpan reads a part of a partition as Read does. What is gone when it is called is passed over; what goes meanwhile is
// an error that is Transient, so that who asks again for the Span learns of it.
func (t *Transport) ReadSpan(ctx context.Context, topic string, partition int, from, to int64, visit func([]framework.Record) error) error {
	start, err := t.start(ctx, topic, partition)
	if err != nil {
		return err
	}
	return t.readSpan(ctx, place{topic, int32(partition)}, span{max(from, start), to}, false, visit)
}

// readSpan reads a range of a partition, with a client of its own: one client cannot read a partition at two places.
func (t *Transport) readSpan(ctx context.Context, at place, r span, passOver bool, visit func([]framework.Record) error) error {
	if t.ctx.Err() != nil {
		return ErrClosed
	}
	if r.start >= r.end {
		return nil
	}
	client, err := kgo.NewClient(append(t.config.reading(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{at.topic: {at.partition: kgo.NewOffset().At(r.start)}}))...)
	if err != nil {
		return fmt.Errorf("kafka: config: %w", err)
	}
	defer client.Close()
	next := r.start
	wrong := func(err error) error {
		return fmt.Errorf("kafka: read partition %d of %q from offset %d: %w", at.partition, at.topic, next, err)
	}
	var decode decoder
	var records []framework.Record
	for next < r.end {
		fetches, err := t.poll(ctx, client)
		if err != nil {
			return wrong(err)
		}
		for _, fetched := range fetches.Errors() {
			if err := t.goesOn(ctx, client, at, &next, passOver, fetched.Err); err != nil {
				return wrong(err)
			}
		}
		records = records[:0]
		for all := fetches.RecordIter(); !all.Done() && next < r.end; {
			k := all.Next()
			if next = k.Offset + 1; next <= r.end && !k.Attrs.IsControl() {
				records = append(records, framework.Record{})
				decode.decode(&records[len(records)-1], k)
			}
		}
		if len(records) > 0 {
			if err := visit(records); err != nil {
				return err
			}
		}
	}
	return nil
}

// goesOn tells what is to be done about an error of what was fetched: nil where the client goes on by itself, or behind
// what is gone, if that is to be passed over.
func (t *Transport) goesOn(ctx context.Context, client *kgo.Client, at place, next *int64, passOver bool, err error) error {
	switch {
	case errors.Is(err, kerr.OffsetOutOfRange) && !passOver:
		return framework.Transient(err)
	case errors.Is(err, kerr.OffsetOutOfRange): // deleted meanwhile
		oldest, unknown := t.oldest(ctx, at.topic, at.partition)
		if unknown != nil {
			return unknown
		}
		if oldest <= *next { // the topic was cut, or made anew
			return framework.Transient(err)
		}
		*next = oldest
		client.SetOffsets(map[string]map[int32]kgo.EpochOffset{at.topic: {at.partition: {Epoch: -1, Offset: oldest}}})
	case endsReading(err) && passes(err):
		return framework.Transient(err)
	case endsReading(err):
		return err
	}
	return nil
}

// endsReading tells whether the client does not go on by itself after an error of what it fetched.
func endsReading(err error) bool {
	return !kerr.IsRetriable(err) || errors.Is(err, kerr.UnknownTopicOrPartition)
}

// errNothingComes says that brokers have records and do not deliver them.
var errNothingComes = errors.New("no broker has delivered anything, though there is more to read")

// poll waits up to Config.Wait for what a client fetches.
func (t *Transport) poll(ctx context.Context, client *kgo.Client) (kgo.Fetches, error) {
	waiting, cancel := context.WithTimeout(ctx, max(t.config.Wait, time.Second))
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	fetches := client.PollFetches(waiting)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case t.ctx.Err() != nil:
		return nil, ErrClosed
	case waiting.Err() != nil && fetches.NumRecords() == 0:
		return nil, framework.Transient(fmt.Errorf("%w, within %s", errNothingComes, t.config.Wait))
	}
	return fetches, nil
}
