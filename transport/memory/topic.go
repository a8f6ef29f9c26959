package memory

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/millrace/millrace/framework"
)

// topic is one topic under one lock, which is taken once for each Publish and once for each batch.
//
// A partition is a list of chunks that are filled and never changed: appending writes behind what
// readers have seen, so a batch is a part of a chunk, not a copy of it.
type topic struct {
	name   string
	config Config
	closed <-chan struct{}

	mu         sync.Mutex
	partitions []partition
	readers    map[string]*progress
	ended      bool
	spread     int           // partition of the next record without key and id
	room       chan struct{} // closed when there may be room; nil while nobody waits
}

// progress is how far a reader has acknowledged, by partition.
type progress struct{ acked []int64 }

func newTopic(name string, partitions int, config Config, closed <-chan struct{}) *topic {
	return &topic{
		name: name, config: config, closed: closed,
		partitions: make([]partition, partitions), readers: make(map[string]*progress),
	}
}

// publish appends records, waiting for room where a partition is full.
func (t *topic) publish(ctx context.Context, records []framework.Record) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.closed:
		return fmt.Errorf("memory: publish to %q: %w", t.name, ErrClosed)
	default:
	}
	for i := range records {
		r := &records[i]
		from, to := 0, len(t.partitions)
		if !r.Watermark || r.Key != "" { // a watermark goes to all
			from = t.assign(r)
			to = from + 1
		}
		for index := from; index < to; index++ {
			if err := t.put(ctx, index, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// put appends a record to a partition, waiting for room.
func (t *topic) put(ctx context.Context, index int, r *framework.Record) error {
	p := &t.partitions[index]
	size := sizeOf(r)
	for t.ended || p.full(&t.config, size) {
		if t.ended {
			return fmt.Errorf("memory: publish to %q: %w", t.name, ErrEnded)
		}
		if p.dropOldest(t.ackedByAll(index)) {
			continue
		}
		if err := t.waitForRoom(ctx); err != nil {
			return fmt.Errorf("memory: publish to %q: partition %d is full (%d records, %d bytes) with records"+
				" that a reader has not acknowledged: %w", t.name, index, p.end-p.start, p.bytes, err)
		}
	}
	p.append(r, size, &t.config)
	return nil
}

// assign tells the partition of a record: by its key, else by its id so that one that is sent again goes
// to the same place, else in turn.
func (t *topic) assign(r *framework.Record) int {
	n := len(t.partitions)
	switch {
	case n == 1:
		return 0
	case r.Key != "":
		return framework.Partition(r.Key, n)
	case r.ID != "":
		return framework.Partition(r.ID, n)
	}
	t.spread = (t.spread + 1) % n
	return t.spread
}

// waitForRoom waits, without the lock, until something was acknowledged.
func (t *topic) waitForRoom(ctx context.Context) error {
	if t.room == nil {
		t.room = make(chan struct{})
	}
	room := t.room
	t.mu.Unlock()
	defer t.mu.Lock()
	select {
	case <-room:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.closed:
		return ErrClosed
	}
}

func (t *topic) madeRoom() {
	if t.room != nil {
		close(t.room)
		t.room = nil
	}
}

// ackedByAll is the position before which every reader is done.
func (t *topic) ackedByAll(partition int) int64 {
	lowest := int64(math.MaxInt64)
	for _, r := range t.readers {
		lowest = min(lowest, r.acked[partition])
	}
	return lowest
}

// end refuses further records and lets readers know.
func (t *topic) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	t.madeRoom()
	for i := range t.partitions {
		t.partitions[i].wake()
	}
}

func (t *topic) forget(reader string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.readers, reader)
	t.madeRoom()
}

// acked moves a reader on.
func (t *topic) acked(reader string, partition int, position int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.readers[reader]; r != nil {
		r.acked[partition] = position
		t.madeRoom()
	}
}

// from returns what a partition keeps from an offset on, and where that begins.
func (t *topic) from(partition int, offset int64) ([]framework.Record, int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &t.partitions[partition]
	offset = max(offset, p.start)
	var all []framework.Record
	for at := offset; at < p.end; at = offset + int64(len(all)) {
		all = append(all, p.from(at, 0, 0)...)
	}
	return all, offset
}

// records returns what is kept, partition by partition.
func (t *topic) records() []framework.Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []framework.Record
	for i := range t.partitions {
		for _, c := range t.partitions[i].chunks {
			all = append(all, c.records...)
		}
	}
	return slices.Clip(all)
}
