package microstore

import (
	"bytes"
	"math"
	"slices"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// minPrune is the least size of an overlay that is worth looking for what is committed.
const minPrune = 64

// lay notes a set (t) or delete (nil) beyond the cursor.
func (sh *timerShard) lay(b *Batch, key string, t *timer) {
	if len(sh.overlay) >= sh.pruneAt {
		sh.prune()
		sh.pruneAt = max(minPrune, 2*len(sh.overlay))
	}
	old := sh.overlay[key]
	sh.overlay[key] = &pending{timer: t, token: b.token}
	b.onRollback(undo{do: undoLay, a: sh, b: layChange{key, sh.overlay[key], old}})
}

type layChange struct {
	key      string
	now, old *pending
}

// undoLay takes a change beyond the cursor back, wherever Load may have moved its effects meanwhile: the
// commit of the batch may have been refused after a Load that already counted with it.
func undoLay(u *undo) {
	sh, c := u.a.(*timerShard), u.b.(layChange)
	now, old := c.now, c.old
	if sh.overlay[c.key] == now {
		delete(sh.overlay, c.key)
	} else if t := sh.index[c.key]; t != nil && t == now.timer {
		sh.remove(t)
	}
	passed := c.key < string(sh.timers.cursor)
	switch {
	case old == nil:
		if now.skipped != nil {
			sh.push(now.skipped)
		}
	case old.timer != nil && passed:
		sh.push(old.timer)
	case old.token.done(): // it can be read from disk
	default:
		if old.timer == nil && old.skipped == nil {
			old.skipped = now.skipped
		}
		sh.overlay[c.key] = old
	}
}

// prune forgets changes that can be read from disk: their batches are committed.
func (sh *timerShard) prune() {
	for key, p := range sh.overlay {
		if p.token.done() {
			delete(sh.overlay, key)
		}
	}
}

// Load makes timers poppable: the earliest that are due at or before upTo, about limit of them. Every timer
// with At <= bound is in memory afterwards; when bound < upTo there is more to load. Where more than limit
// timers share one At, they may be loaded in part: then bound is that At, and exact is false. A timer which is
// set at that very At before the rest has been loaded is poppable after the Load that passes it.
//
// Called between batches only; commits of earlier batches may be under way. It reads the disk, and so waits
// for such a commit, only when a timer there may be due.
func (q *Timers) Load(upTo int64, limit int) (bound int64, exact bool, err error) {
	end := timerEnd(upTo)
	if string(q.cursor) >= string(end) {
		return upTo, true, nil
	}
	// The committed part of the overlays goes before the transaction begins: it is on disk for it then.
	far := noTimer
	for i := range q.shards {
		sh := &q.shards[i]
		sh.prune()
		far = min(far, sh.far.Load())
	}
	if min(q.onDisk.Load(), far) > upTo {
		q.cursor = end
		return upTo, true, nil
	}
	found, next, err := q.read(limit, upTo)
	if err != nil {
		return 0, false, err
	}
	bound, exact = upTo, true
	cursor, onDisk := end, noTimer
	if next != nil {
		onDisk = readTime(next)
		if onDisk <= upTo { // stopped by limit
			cursor, bound = bytes.Clone(next), onDisk-1
			if len(found) > 0 && found[0].At == onDisk {
				bound, exact = onDisk, false
			}
		}
	}
	q.cursor = cursor
	for _, t := range found {
		q.enter(t)
	}
	for i := range q.shards {
		q.shards[i].advance(string(cursor))
	}
	q.onDisk.Store(onDisk)
	return bound, exact, nil
}

// read returns up to limit timers from the cursor on, and the key of the first that it has not returned.
func (q *Timers) read(limit int, upTo int64) (found []*timer, next []byte, err error) {
	start := append(slices.Clone(q.prefix), q.cursor...)
	err = q.task.store.view(func(txn *badger.Txn) error {
		return scan(txn, q.prefix, start, func(item *badger.Item) (bool, error) {
			key := item.Key()[len(q.prefix):]
			if len(key) < 8 {
				return false, readError(errMalformed)
			}
			if len(found) >= max(1, limit) || readTime(key) > upTo {
				next = bytes.Clone(key)
				return false, nil
			}
			payload, err := valueOf(item)
			if err != nil {
				return false, err
			}
			t, err := parseTimer(key, payload)
			found = append(found, t)
			return err == nil, err
		})
	})
	return found, next, err
}

// enter puts a timer from disk into memory, unless a batch whose commit is under way has changed it.
func (q *Timers) enter(t *timer) {
	sh := &q.shards[Shard(t.Key)]
	if p := sh.overlay[t.key]; p != nil {
		p.skipped = t
		return
	}
	sh.push(t)
}

// advance moves what the cursor has passed from the overlay into memory, and finds the earliest of the rest.
// Deletes stay until they are committed: they may have to be taken back.
func (sh *timerShard) advance(cursor string) {
	far := noTimer
	for key, p := range sh.overlay {
		switch {
		case p.timer == nil:
		case strings.Compare(key, cursor) < 0:
			delete(sh.overlay, key)
			sh.push(p.timer)
		default:
			far = min(far, p.timer.At)
		}
	}
	sh.far.Store(far)
}

// timerEnd is the key before which all timers with At <= upTo are.
func timerEnd(upTo int64) []byte {
	if upTo == math.MaxInt64 {
		return []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	return appendTime(nil, upTo+1)
}

// firstOnDisk returns when the earliest timer on disk is due.
func (q *Timers) firstOnDisk() (int64, error) {
	first := noTimer
	err := q.task.store.view(func(txn *badger.Txn) error {
		return scan(txn, q.prefix, nil, func(item *badger.Item) (bool, error) {
			if key := item.Key()[len(q.prefix):]; len(key) >= 8 {
				first = readTime(key)
			}
			return false, nil
		})
	})
	return first, err
}
