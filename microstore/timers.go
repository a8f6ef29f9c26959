package microstore

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"math"
	"sync/atomic"
)

// Timer is a moment in event time at which a step wants to be called for a key. Its identity is
// (At, Step, Key, ID), and timers are due in that order; the payload is the caller's.
type Timer struct {
	At      int64 // event time in unix nanoseconds
	Step    uint32
	Key, ID string
	Payload []byte
}

// Timers are the timers of a task. Only those up to a cursor are in memory, where they can be popped; Load
// moves the cursor on. Later ones are on disk only, so memory is bounded by how far ahead Load is told to go.
//
// Order on disk is the order in which timers are due, so the cursor is a key: what sorts before it is in
// memory, in the heap of its shard. What a batch that is not yet committed has set or deleted beyond the
// cursor is kept in the overlay of its shard, until it can be read from disk or the cursor has passed it.
//
// Set, Delete, Pop and Peek for keys of one Shard must come from one goroutine at a time; Load only between
// batches; Next at any time.
type Timers struct {
	task   *Task
	prefix []byte
	cursor []byte       // every timer whose key is before it is in memory
	onDisk atomic.Int64 // no timer on disk beyond the cursor is earlier, but for those in an overlay
	shards [Shards]timerShard
}

type timerShard struct {
	timers  *Timers
	due     timerHeap
	index   map[string]*timer // those in due by key
	overlay map[string]*pending
	pruneAt int          // size of the overlay at which committed ones are removed from it
	far     atomic.Int64 // no timer beyond the cursor that was set since the last Load is earlier
	near    atomic.Int64 // earliest in due
}

// timer is one in memory. op is the operation of the batch of token that set it, if it has not been on disk.
type timer struct {
	Timer
	key   string // on disk, without prefix
	place int    // in the heap
	token *token
	op    int
}

// pending is a set or delete beyond the cursor.
type pending struct {
	timer   *timer // nil: deleted
	token   *token
	skipped *timer // what Load found on disk and passed over because of the delete
}

const noTimer = int64(math.MaxInt64)

// Timers returns the timers of the task.
func (t *Task) Timers() (*Timers, error) {
	t.parts.Lock()
	defer t.parts.Unlock()
	if t.timers != nil {
		return t.timers, t.store.alive()
	}
	q := &Timers{task: t, prefix: t.key(partTimer)}
	for i := range q.shards {
		sh := &q.shards[i]
		sh.timers = q
		sh.index, sh.overlay, sh.pruneAt = map[string]*timer{}, map[string]*pending{}, minPrune
		sh.far.Store(noTimer)
		sh.near.Store(noTimer)
	}
	first, err := q.firstOnDisk()
	if err != nil {
		return nil, err
	}
	q.onDisk.Store(first)
	t.timers = q
	return q, nil
}

// Set queues a timer. Setting one that is set replaces its payload.
func (q *Timers) Set(b *Batch, tm Timer) error {
	if err := checkKey("timer", tm.Key, tm.ID); err != nil {
		return err
	}
	sh := &q.shards[Shard(tm.Key)]
	full := q.key(b, tm)
	key := string(full[len(q.prefix):])
	if key >= string(q.cursor) {
		b.set(full, tm.Payload)
		sh.lay(b, key, &timer{Timer: tm, key: key})
		sh.far.Store(min(sh.far.Load(), tm.At))
		return nil
	}
	if old := sh.index[key]; old != nil {
		b.onRollback(undo{do: undoPayload, a: old, b: old.Payload})
		old.Payload = tm.Payload
		if old.token == b.token {
			b.change(old.op, opSet, tm.Payload)
		} else {
			b.set(full, tm.Payload)
		}
		return nil
	}
	t := &timer{Timer: tm, key: key, token: b.token}
	t.op = b.set(full, tm.Payload)
	sh.push(t)
	b.onRollback(undo{do: undoPush, a: sh, b: t})
	return nil
}

// Delete removes a timer; it may be absent.
func (q *Timers) Delete(b *Batch, tm Timer) error {
	if err := checkKey("timer", tm.Key, tm.ID); err != nil {
		return err
	}
	sh := &q.shards[Shard(tm.Key)]
	full := q.key(b, tm)
	key := string(full[len(q.prefix):])
	if key >= string(q.cursor) {
		b.delete(full)
		sh.lay(b, key, nil)
		return nil
	}
	if t := sh.index[key]; t != nil {
		q.take(b, sh, t)
	}
	return nil
}

// Has tells whether a timer is set. Beyond the cursor it may read the disk.
func (q *Timers) Has(tm Timer) (bool, error) {
	sh := &q.shards[Shard(tm.Key)]
	full := q.appendKey(nil, tm)
	key := string(full[len(q.prefix):])
	if key < string(q.cursor) {
		return sh.index[key] != nil, nil
	}
	if p := sh.overlay[key]; p != nil {
		return p.timer != nil, nil
	}
	_, ok, err := q.task.store.get(full)
	return ok, err
}

// Pop takes the earliest timer of a shard that is due at or before upTo and deletes it in b.
func (q *Timers) Pop(b *Batch, shard int, upTo int64) (Timer, bool) {
	sh := &q.shards[shard]
	if len(sh.due) == 0 || sh.due[0].At > upTo {
		return Timer{}, false
	}
	t := sh.due[0]
	q.take(b, sh, t)
	return t.Timer, true
}

// Peek returns when the earliest timer in memory of a shard is due.
func (q *Timers) Peek(shard int) (at int64, ok bool) {
	if due := q.shards[shard].due; len(due) > 0 {
		return due[0].At, true
	}
	return 0, false
}

// Next returns when the earliest timer of all is due, or a time before it: one that has been deleted since the
// last Load may still count. Safe at any time.
func (q *Timers) Next() (at int64, ok bool, err error) {
	at = q.onDisk.Load()
	for i := range q.shards {
		at = min(at, q.shards[i].near.Load(), q.shards[i].far.Load())
	}
	return at, at != noTimer, q.task.store.alive()
}

// take removes a timer from memory and queues its delete, or takes back the set if that is in the same batch.
func (q *Timers) take(b *Batch, sh *timerShard, t *timer) {
	sh.remove(t)
	if t.token == b.token {
		b.change(t.op, opDead, nil)
	} else {
		b.delete(q.key(b, t.Timer))
	}
	b.onRollback(undo{do: undoTake, a: sh, b: t})
}

func undoPush(u *undo)    { u.a.(*timerShard).remove(u.b.(*timer)) }
func undoTake(u *undo)    { u.a.(*timerShard).push(u.b.(*timer)) }
func undoPayload(u *undo) { u.a.(*timer).Payload = u.b.([]byte) }

func (q *Timers) key(b *Batch, tm Timer) []byte {
	return b.keep(q.appendKey(b.space(len(q.prefix)+8+4+2+len(tm.Key)+len(tm.ID)), tm))
}

func (q *Timers) appendKey(dst []byte, tm Timer) []byte {
	key := binary.BigEndian.AppendUint32(appendTime(append(dst, q.prefix...), tm.At), tm.Step)
	return append(appendPart(key, tm.Key), tm.ID...)
}

func parseTimer(key, payload []byte) (*timer, error) {
	if len(key) >= 12 {
		if part, id, ok := readPart(key[12:]); ok {
			tm := Timer{At: readTime(key), Step: binary.BigEndian.Uint32(key[8:]), Key: string(part), ID: string(id), Payload: payload}
			return &timer{Timer: tm, key: string(key)}, nil
		}
	}
	return nil, readError(fmt.Errorf("timer: %w", errMalformed))
}

func (sh *timerShard) push(t *timer) {
	heap.Push(&sh.due, t)
	sh.index[t.key] = t
	sh.near.Store(sh.due[0].At)
}

func (sh *timerShard) remove(t *timer) {
	heap.Remove(&sh.due, t.place)
	delete(sh.index, t.key)
	if len(sh.due) > 0 {
		sh.near.Store(sh.due[0].At)
	} else {
		sh.near.Store(noTimer)
	}
}

// timerHeap orders timers as their keys do.
type timerHeap []*timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].key < h[j].key }
func (h timerHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i]; h[i].place, h[j].place = i, j }
func (h *timerHeap) Push(x any)        { t := x.(*timer); t.place = len(*h); *h = append(*h, t) }
func (h *timerHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return t
}
