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
	at := place{name, int32(partition)}
	r := span{max(from, all[partition].start), all[partition].end}
	if r.start >= r.end {
		return r.start, nil
	}
	client, err := kgo.NewClient(append(t.config.reading(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{name: {at.partition: kgo.NewOffset().At(r.start)}}))...)
	if err != nil {
		return from, fmt.Errorf("kafka: config: %w", err)
	}
	defer client.Close()
	next, err = t.readUpTo(ctx, client, at, r, fn)
	var own stopped
	if errors.As(err, &own) {
		return next, own.error
	}
	if err != nil {
		err = fmt.Errorf("kafka: read partition %d of %q: %w", partition, name, err)
	}
	return next, err
}

// stopped is an error of the function that is given to Read.
type stopped struct{ error }

// readUpTo reads a range with a client of its own.
func (t *Transport) readUpTo(ctx context.Context, client *kgo.Client, at place, r span, fn func(framework.Record) error) (next int64, err error) {
	var decode decoder
	for next = r.start; next < r.end; {
		fetches, err := t.poll(ctx, client)
		if err != nil {
			return next, err
		}
		for _, fetched := range fetches.Errors() {
			switch {
			case errors.Is(fetched.Err, kerr.OffsetOutOfRange): // deleted meanwhile
				oldest, err := t.oldest(ctx, at.topic, at.partition)
				if err != nil {
					return next, err
				}
				next = max(next, oldest)
				client.SetOffsets(map[string]map[int32]kgo.EpochOffset{at.topic: {at.partition: {Epoch: -1, Offset: next}}})
			case endsReading(fetched.Err):
				if passes(fetched.Err) {
					return next, framework.Transient(fetched.Err)
				}
				return next, fetched.Err
			}
		}
		for all := fetches.RecordIter(); !all.Done(); {
			k := all.Next()
			if k.Offset >= r.end {
				return next, nil
			}
			if !k.Attrs.IsControl() {
				if err := fn(decode.decode(k)); err != nil {
					return next, stopped{err}
				}
			}
			next = k.Offset + 1
		}
	}
	return next, nil
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
