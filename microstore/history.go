package microstore

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"sort"
	"strings"
	"sync/atomic"
	"time"
)

// HistoryConfig bounds the entries of one key and match value. When an append exceeds a bound, the oldest
// entries are deleted in the same batch. Zero: unbounded (but by the floor).
type HistoryConfig struct {
	MaxCount int   // entries
	MaxBytes int64 // ids and values; the newest entry is kept whatever its size
}

// Entry is one event of a history. The store keeps the pointer: do not change an entry once appended, but
// for Data, and for Value, which may be let go of where Data stands for it: the store needs it no more. Entries come
// back from View as they were appended or left, or as read from disk with Data nil.
type Entry struct {
	Time  int64 // event time in unix nanoseconds
	ID    string
	Value []byte
	Data  any // decoded form, set and used by the caller in the goroutine of the key's shard; never persisted

	bytes int // of Value, which may have been let go of
}

func (e *Entry) valueBytes() int { return max(e.bytes, len(e.Value)) }

func (e *Entry) compare(time int64, id string) int {
	if c := cmp.Compare(e.Time, time); c != 0 {
		return c
	}
	return strings.Compare(e.ID, id)
}

// History keeps entries per key and match value, ordered by time, then id. A join puts the value it joins by
// into match, which makes the index the entry's own key: one write per append, and a lookup reads no more
// than what matches. A plain history leaves match empty.
//
// Appends and lookups work on lists in memory, within the store's budget. What makes a lookup of a key that
// was never seen cheap is the horizon of its shard: no entry at or after the horizon is missing from memory,
// so when the floor is past it, a list that is not in memory is empty, and the disk is not asked.
//
// Calls for keys of one Shard must come from one goroutine at a time.
type History struct {
	task   *Task
	name   string
	cfg    HistoryConfig
	number uint16
	prefix []byte
	swept  atomic.Int64 // highest floor of a Sweep: below it, entries may be gone from disk
	cursor []byte       // Sweep: where to go on; nil: at the beginning
	oldest int64        // Sweep: no entry was older when it last went round
	least  int64        // Sweep: the oldest entry seen on the way round
	shards [Shards]historyShard
}

// History returns the named history of the task, made when it is not there. Calling it again returns the
// same one, and needs the same configuration.
func (t *Task) History(name string, cfg HistoryConfig) (*History, error) {
	if err := checkName("history", name); err != nil {
		return nil, err
	}
	t.parts.Lock()
	defer t.parts.Unlock()
	if h := t.histories[name]; h != nil {
		if h.cfg != cfg {
			return nil, fmt.Errorf("%w: %s of task %s has %+v, asked for %+v", errOtherConfig, name, t.name, h.cfg, cfg)
		}
		return h, t.store.alive()
	}
	number, err := t.number(kindHistory, name)
	if err != nil {
		return nil, err
	}
	h := &History{task: t, name: name, cfg: cfg, number: number, prefix: t.key(partHistory, number)}
	h.swept.Store(math.MinInt64)
	h.oldest, h.least = math.MinInt64, math.MaxInt64
	for i := range h.shards {
		h.shards[i] = historyShard{
			history: h, number: byte(i), lists: map[uint64]*list{},
			horizon: math.MinInt64, bound: math.MinInt64, oldest: math.MaxInt64, newest: math.MinInt64, gone: gone{known: math.MinInt64},
		}
	}
	t.store.histories.Add(1)
	if err := h.warm(); err != nil {
		t.store.histories.Add(-1)
		return nil, err
	}
	t.histories[name] = h
	return h, nil
}

// Append adds e to the history of key and match, unless an entry with its ID is there at or after floor; then
// added is false and nothing changes. Entries before floor are expired: an e before it is ErrExpired. Cost in
// memory: a search in the list; the disk is read only when the list is not in memory and may not be empty.
func (h *History) Append(b *Batch, key, match string, e *Entry, floor int64) (added bool, err error) {
	added, _, err = h.Push(b, key, match, e, floor)
	return added, err
}

// Push is Append that also returns what the bounds pushed out for e, oldest first.
func (h *History) Push(b *Batch, key, match string, e *Entry, floor int64) (added bool, out []*Entry, err error) {
	floor = max(floor, h.swept.Load())
	if e.Time < floor {
		return false, nil, ErrExpired
	}
	if err := checkKey("history entry", key, match, e.ID); err != nil {
		return false, nil, err
	}
	sh := &h.shards[Shard(key)]
	l, err := sh.get(listKey{key, match}, floor, true)
	if err != nil {
		return false, nil, err
	}
	if l.has(e.ID, floor) {
		return false, nil, nil
	}
	at := l.position(e.Time, e.ID)
	surplus, ok := h.surplus(l, e, at, floor)
	if !ok {
		return false, nil, ErrExpired
	}
	sh.raiseBound(b, e.Time, floor)
	sh.oldest, sh.newest = min(sh.oldest, e.Time), max(sh.newest, e.Time)
	b.set(h.entryKey(b, l, e), e.Value)
	b.onRollback(undo{do: undoAdd, a: l, b: e, token: l.token})
	l.token = b.token
	l.insert(at, e)
	for range surplus {
		first := l.position(floor, "")
		out = append(out, l.entries[first])
		h.remove(b, l, first)
	}
	sh.evict(l)
	return true, out, nil
}

// surplus says how many of the oldest live entries have to go for e, which would stand at position at; not ok
// when e itself would be among them.
func (h *History) surplus(l *list, e *Entry, at int, floor int64) (n int, ok bool) {
	if h.cfg.MaxCount == 0 && h.cfg.MaxBytes == 0 {
		return 0, true
	}
	first := l.position(floor, "")
	older := at - first
	count := len(l.entries) - first + 1
	if h.cfg.MaxCount > 0 {
		n = max(0, count-h.cfg.MaxCount)
	}
	if h.cfg.MaxBytes > 0 {
		bytes := entryBytes(e)
		for _, other := range l.entries[first:] {
			bytes += entryBytes(other)
		}
		for i := 0; bytes > h.cfg.MaxBytes && i < count-1 && i <= older; i++ {
			if i == older {
				return 0, false
			}
			bytes -= entryBytes(l.entries[first+i])
			n = max(n, i+1)
		}
	}
	return n, n <= older
}

func entryBytes(e *Entry) int64 { return int64(len(e.ID) + e.valueBytes()) }

// Delete removes the entry with that time and id; false when it is not there.
func (h *History) Delete(b *Batch, key, match string, time int64, id string) (bool, error) {
	sh := &h.shards[Shard(key)]
	if time < h.swept.Load() {
		return false, nil
	}
	l, err := sh.get(listKey{key, match}, time, false)
	if err != nil || l == nil {
		return false, err
	}
	at := l.position(time, id)
	if at == len(l.entries) || l.entries[at].compare(time, id) != 0 {
		return false, nil
	}
	h.remove(b, l, at)
	return true, nil
}

func (h *History) remove(b *Batch, l *list, at int) {
	e := l.entries[at]
	b.delete(h.entryKey(b, l, e))
	b.onRollback(undo{do: undoRemove, a: l, b: e, token: l.token})
	l.token = b.token
	l.remove(at)
}

func undoAdd(u *undo) {
	l, e := u.a.(*list), u.b.(*Entry)
	l.remove(l.position(e.Time, e.ID))
	l.token = u.token
}

func undoRemove(u *undo) {
	l, e := u.a.(*list), u.b.(*Entry)
	l.insert(l.position(e.Time, e.ID), e)
	l.token = u.token
}

// View returns the live entries of key and match (Time >= floor), oldest first, always including the caller's
// own writes, committed or not.
func (h *History) View(key, match string, floor int64) (View, error) {
	floor = max(floor, h.swept.Load())
	sh := &h.shards[Shard(key)]
	l, err := sh.get(listKey{key, match}, floor, false)
	if err != nil || l == nil {
		return View{}, err
	}
	first := 0
	if len(l.entries) > 0 && l.entries[0].Time < floor {
		first = l.position(floor, "")
	}
	return View{l.entries[first:len(l.entries):len(l.entries)]}, nil
}

// entryKey builds the key of an entry in the batch's space.
func (h *History) entryKey(b *Batch, l *list, e *Entry) []byte {
	key := append(b.space(len(h.prefix)+4+len(l.key)+len(l.match)+8+len(e.ID)), h.prefix...)
	key = appendTime(appendPart(appendPart(key, l.key), l.match), e.Time)
	return b.keep(append(key, e.ID...))
}

// splitKey takes an entry's key without the prefix apart; the results point into it.
func splitKey(rest []byte) (key, match []byte, time int64, id []byte, ok bool) {
	if key, rest, ok = readPart(rest); !ok {
		return
	}
	if match, rest, ok = readPart(rest); !ok || len(rest) < 8 {
		return nil, nil, 0, nil, false
	}
	return key, match, readTime(rest), rest[8:], true
}

// boundSlack is by how much the persisted bound of a shard runs ahead of its newest entry at least: it is
// written again only when event time has gone on by that much.
const boundSlack = int64(time.Minute)

// raiseBound makes sure that the persisted bound of the shard is after t. After a reopen the bound is the
// horizon, so running far ahead costs reads then, and running close costs writes now: a sixteenth of the
// retention is little of either.
func (sh *historyShard) raiseBound(b *Batch, t, floor int64) {
	if t < sh.bound {
		return
	}
	slack := boundSlack
	if floor > math.MinInt64/2 && t < math.MaxInt64/2 { // else there is no retention to speak of
		slack = max(slack, (t-floor)/16)
	}
	b.onRollback(undo{do: undoBound, a: sh, n: sh.bound})
	sh.bound = later(t, slack)
	key := append(sh.history.task.key(partBound, sh.history.number), sh.number)
	b.set(key, binary.BigEndian.AppendUint64(nil, uint64(sh.bound)))
}

// later is t + d, d not negative, and the end of time where that overflows.
func later(t, d int64) int64 {
	if t > math.MaxInt64-d {
		return math.MaxInt64
	}
	return t + d
}

func undoBound(u *undo) { u.a.(*historyShard).bound = u.n }

func search(entries []*Entry, time int64, id string) int {
	return sort.Search(len(entries), func(i int) bool { return entries[i].compare(time, id) >= 0 })
}
