package framework

import (
	"math"
	"sync"
	"time"

	"github.com/millrace/millrace/internal/failpoint"
)

// A backlog is what has been decided for an internal topic and its reader has not processed, in bytes on disk
// for each partition. Writers wait before a round while a partition is at the limit, so it exceeds the limit by at most one
// round of each of them, and whatever the limit, an empty partition takes a round.
//
// That cannot lock up. Who waits holds nothing that a reader needs: reading does not wait for watermarks, only timers
// do. Stages form no circle (Pipeline.Validate), so the last of those that have something to read writes to no
// topic that is full; it empties its topics, and so does then the one before it.
//
// What a round decides counts before its commit, what is processed no longer counts after that of the reader: so no
// position is ever ahead of what was counted.
type backlog struct {
	limit int64

	lock  sync.Mutex
	parts []unread
	full  int           // partitions at the limit
	room  chan struct{} // closed when no partition is at the limit any more; nil while nobody waits
}

// unread is the backlog of one partition.
type unread struct {
	position int64 // before which all is processed
	bytes    int64
	extents  []extent // oldest first
}

// extent is a run of records whose bytes are known together.
type extent struct{ records, bytes int64 }

// extentsAtLimit is about how many extents make a full partition: smaller ones are put together.
const extentsAtLimit = 64

func newBacklog(limit int64, partitions int) *backlog {
	return &backlog{limit: limit, parts: make([]unread, partitions)}
}

// start sets the position of a partition's reader.
func (b *backlog) start(partition int, position int64) {
	b.lock.Lock()
	defer b.lock.Unlock()
	b.parts[partition].position = position
}

// add counts records that were decided.
func (b *backlog) add(partition int, records, bytes int64) {
	b.lock.Lock()
	defer b.lock.Unlock()
	p := &b.parts[partition]
	if n := len(p.extents); n > 0 && p.extents[n-1].bytes < max(b.limit/extentsAtLimit, 1) {
		p.extents[n-1].records += records
		p.extents[n-1].bytes += bytes
	} else {
		p.extents = append(p.extents, extent{records, bytes})
	}
	b.set(p, p.bytes+bytes)
}

// processed counts no longer what is before a position, and returns how many bytes that were.
func (b *backlog) processed(partition int, position int64) (bytes int64) {
	b.lock.Lock()
	defer b.lock.Unlock()
	p := &b.parts[partition]
	n := position - p.position
	if n <= 0 {
		return 0
	}
	p.position = position
	for n > 0 && len(p.extents) > 0 {
		e := &p.extents[0]
		if e.records > n {
			part := int64(math.Round(float64(e.bytes) * (float64(n) / float64(e.records))))
			e.records -= n
			e.bytes -= part
			bytes += part
			break
		}
		n -= e.records
		bytes += e.bytes
		p.extents = p.extents[1:]
	}
	b.set(p, p.bytes-bytes)
	return bytes
}

// set changes the bytes of a partition; the lock is held.
func (b *backlog) set(p *unread, bytes int64) {
	was, is := p.bytes >= b.limit, bytes >= b.limit
	p.bytes = bytes
	switch {
	case is && !was:
		b.full++
	case was && !is:
		if b.full--; b.full == 0 && b.room != nil {
			close(b.room)
			b.room = nil
		}
	}
}

// wait returns a channel that is closed when no partition is at the limit; nil when none is.
func (b *backlog) wait() <-chan struct{} {
	b.lock.Lock()
	defer b.lock.Unlock()
	if b.full == 0 {
		return nil
	}
	if b.room == nil {
		b.room = make(chan struct{})
	}
	return b.room
}

// awaitRoom waits, before a round, until no topic that the task writes to is full.
func (t *task) awaitRoom() (waited time.Duration, err error) {
	room := t.full()
	if room == nil || t.inline {
		return 0, nil
	}
	began := time.Now()
	for ; room != nil; room = t.full() {
		if err := failpoint.Hit("task.full"); err != nil {
			return 0, err
		}
		select {
		case <-room:
		case <-t.stop:
			return 0, errStopping
		case <-t.failed:
			return 0, errStopping
		}
	}
	return time.Since(began), nil
}

// full returns what to wait for before the next round; nil for nothing.
func (t *task) full() <-chan struct{} {
	for _, b := range t.outlets {
		if room := b.wait(); room != nil {
			return room
		}
	}
	return nil
}

// decided is what a commit adds to a backlog.
type decided struct {
	backlog        *backlog
	partition      int
	records, bytes int64
}

// releaseEvery is how many records of an internal topic are let go at once, once they are behind the position;
// large ones go by a quarter of the bound on the backlog, but not less than releaseBytes.
const (
	releaseEvery = 1 << 13
	releaseBytes = 1 << 20
)

// processed tells a topic's writers how far its only reader has come, after the commit that says so, and lets the
// topic forget what is before it.
func (t *task) processed(src *taskSource, position int64) error {
	if src.backlog != nil {
		src.unreleased += src.backlog.processed(t.partition, position)
	}
	if position-src.released < releaseEvery && src.unreleased < max(t.env.config.BacklogBytes/4, releaseBytes) {
		return nil
	}
	src.released, src.unreleased = position, 0
	return src.keeper.Release(src.topic, t.partition, position)
}

// openBacklogs finds what earlier runs have left in the internal topics, and tells the tasks what they wait for.
// Internal topics on another transport go through outbox and relay, which have a bound of their own; so do those of
// stages that are shared out among processes.
func (r *Runner) openBacklogs() error {
	tasks := r.live()
	for _, t := range tasks {
		for _, src := range t.sources {
			target := t.sinks[src.topic]
			if src.keeper == nil || target.store == nil {
				continue
			}
			if target.backlog == nil {
				target.backlog = newBacklog(r.config.BacklogBytes, target.partitions)
			}
			start, records, bytes, err := src.keeper.Held(src.topic, t.partition, src.next)
			if err != nil {
				return err
			}
			src.backlog = target.backlog
			src.backlog.start(t.partition, start)
			if records > 0 {
				src.backlog.add(t.partition, records, bytes)
			}
		}
	}
	for _, t := range tasks {
		for _, topic := range t.stage.topics {
			if b := t.sinks[topic].backlog; b != nil {
				t.outlets = append(t.outlets, b)
			}
		}
	}
	return nil
}
