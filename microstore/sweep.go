package microstore

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"github.com/millrace/millrace/internal/failpoint"
)

// Sweep removes expired entries a little at a time: it looks at up to scan keys on disk, going on where the
// last call ended and round again, and queues deletes of those before floor into b. It also lets go of cached
// lists that have expired. Entries before floor are never returned any more, whatever floor a caller names.
//
// Called between batches, never at the same time as Append, View or Delete. It waits for a commit that is
// under way, because it reads the disk.
func (h *History) Sweep(b *Batch, floor int64, limit int) (removed int, err error) {
	floor = max(floor, h.swept.Load())
	h.swept.Store(floor)
	for i := range h.shards {
		h.shards[i].dropExpired(floor, max(1, limit/Shards))
	}
	if h.cursor == nil && !h.worthSweeping(floor) {
		return 0, nil
	}
	var next []byte
	seen := 0
	err = h.task.store.view(func(txn *badger.Txn) error {
		return scan(txn, h.prefix, h.cursor, func(item *badger.Item) (bool, error) {
			if seen == limit {
				next = item.KeyCopy(nil)
				return false, nil
			}
			seen++
			_, _, time, _, ok := splitKey(item.Key()[len(h.prefix):])
			if ok && time < floor {
				b.delete(b.keep(append(b.space(len(item.Key())), item.Key()...)))
				removed++
			} else if ok {
				h.least = min(h.least, time)
			}
			return true, nil
		})
	})
	if err != nil {
		return removed, err
	}
	if h.cursor = next; next == nil { // once round
		h.oldest, h.least = min(h.least, h.oldestAppended()), math.MaxInt64
		for i := range h.shards {
			h.shards[i].oldest = math.MaxInt64
		}
	}
	return removed, nil
}

// oldestAppended is the least time appended since Sweep last went round.
func (h *History) oldestAppended() int64 {
	oldest := int64(math.MaxInt64)
	for i := range h.shards {
		oldest = min(oldest, h.shards[i].oldest)
	}
	return oldest
}

// worthSweeping tells whether going round again would remove enough: not before the oldest entries are expired by
// an eighth of the time that entries are kept, so that each is looked at a few times in its life, not at every
// call. A small history is always worth it.
func (h *History) worthSweeping(floor int64) bool {
	oldest := min(h.oldest, h.oldestAppended())
	if floor <= oldest {
		return false
	}
	newest := int64(math.MinInt64)
	for i := range h.shards {
		newest = max(newest, h.shards[i].newest)
	}
	if newest <= floor || oldest == math.MinInt64 {
		return true
	}
	return floor-oldest > (newest-floor)/8
}

// All calls fn for every entry of the history as committed, by key, match value and time, expired ones that
// the sweeper has not reached included, until fn returns false. It reads the disk only and may run at any
// time. Keys come ordered by length, then bytes.
func (h *History) All(fn func(key, match string, e *Entry) bool) error {
	return h.each(h.prefix, fn)
}

// Of calls fn for the entries of one key, as All does for every key.
func (h *History) Of(key string, fn func(match string, e *Entry) bool) error {
	return h.each(appendPart(slices.Clone(h.prefix), key), func(_, match string, e *Entry) bool { return fn(match, e) })
}

// Keys calls fn for every key with the number of its entries, as All does for every entry; values are not
// read. It begins after the given key: empty for the first.
func (h *History) Keys(after string, fn func(key string, entries int) bool) error {
	var start []byte
	if after != "" {
		start = append(appendPart(slices.Clone(h.prefix), after), 0xff, 0xff, 0xff)
	}
	key, count := "", 0
	err := h.task.store.view(func(txn *badger.Txn) error {
		return scan(txn, h.prefix, start, func(item *badger.Item) (bool, error) {
			k, _, _, _, ok := splitKey(item.Key()[len(h.prefix):])
			if !ok || (count > 0 && key == string(k)) {
				count++
				return true, nil
			}
			if count > 0 && !fn(key, count) {
				count = 0
				return false, nil
			}
			key, count = string(k), 1
			return true, nil
		})
	})
	if err == nil && count > 0 {
		fn(key, count)
	}
	return err
}

func (h *History) each(prefix []byte, fn func(key, match string, e *Entry) bool) error {
	return h.task.store.view(func(txn *badger.Txn) error {
		return scan(txn, prefix, nil, func(item *badger.Item) (bool, error) {
			key, match, time, id, ok := splitKey(item.Key()[len(h.prefix):])
			if !ok {
				return false, readError(errMalformed)
			}
			value, err := valueOf(item)
			if err != nil {
				return false, err
			}
			return fn(string(key), string(match), &Entry{Time: time, ID: string(id), Value: value}), nil
		})
	})
}

// warmShare of the cache's budget is what one history or table may load when it is opened.
const warmShare = 4

// warmMost is how many entries are looked at at most while a store is open, when histories are opened, to know which lists
// are on disk: a second or two's worth. Not to know costs a read for the first event of every key, until event time has
// passed the bounds.
const warmMost = 2_000_000

// warm prepares the cache for a history that is on disk. A small one is loaded whole, which makes its memory
// complete, as that of a new one is. Of a larger one the first lists are, and which others there are is remembered. What
// has not been loaded lies before the persisted bounds, which become the horizon; and if there is too much to
// remember, nothing is known of what lies before it.
func (h *History) warm() error {
	bound, err := h.readBound()
	if err != nil || bound == math.MinInt64 {
		return err // nothing was ever appended
	}
	h.task.store.warming.Lock()
	defer h.task.store.warming.Unlock()
	w := warming{History: h, cache: h.task.store.cache, lists: h.goneLimit()}
	w.most = min(warmMost-h.task.store.warmed.Load(), int64(2*Shards*w.lists)) // no more can be remembered
	w.limit = min(w.cache.limit/warmShare, w.cache.limit-w.cache.used.Load())
	if err := failpoint.Hit("store.warm"); err != nil {
		return err
	}
	err = h.task.store.view(func(txn *badger.Txn) error { return scan(txn, h.prefix, nil, w.take) })
	if err != nil {
		return err
	}
	h.task.store.warmed.Add(w.known)
	for i := range h.shards {
		sh := &h.shards[i]
		sh.bound, sh.newest = bound, bound
		if w.full {
			sh.horizon = bound
		}
		if w.known > w.most {
			sh.gone.forget(w.cache)
			sh.gone.known = bound
		}
	}
	return nil
}

// warming is a history that is read when it is opened.
type warming struct {
	*History
	cache  *budget
	limit  int64 // bytes to load
	loaded int64
	last   *list
	full   bool  // no more is loaded
	known  int64 // entries that were not loaded
	most   int64
	lists  int // that a generation of a shard remembers
}

// take takes the next entry; false ends reading.
func (w *warming) take(item *badger.Item) (bool, error) {
	key, match, time, id, ok := splitKey(item.Key()[len(w.prefix):])
	if !ok {
		return false, readError(errMalformed)
	}
	sh := &w.shards[Shard(string(key))]
	switch other := w.last == nil || w.last.key != string(key) || w.last.match != string(match); {
	case w.full:
	case other && w.loaded > w.limit:
		w.full = true
	case w.loaded > w.limit+w.limit/2: // one very long list: leave it to whoever asks for it
		w.full = true
		sh.drop(w.last)
	case other:
		name := listKey{string(key), string(match)}
		hash := name.hash()
		w.last = sh.create(hash, name, sh.absentFrom(hash))
		w.loaded += w.last.bytes
	}
	if w.full {
		w.known++
		sh.gone.add(listKey{string(key), string(match)}.hash(), time, w.lists, w.cache)
		return w.known <= w.most, nil
	}
	value, err := valueOf(item)
	if err != nil {
		return false, err
	}
	before := w.last.bytes
	w.last.insert(len(w.last.entries), &Entry{Time: time, ID: string(id), Value: value})
	w.loaded += w.last.bytes - before
	return true, nil
}

// readBound returns the highest of the shards' persisted bounds: another process assigned keys to shards in
// another way, so it has to hold for all of them.
func (h *History) readBound() (int64, error) {
	bound := int64(math.MinInt64)
	err := h.task.store.view(func(txn *badger.Txn) error {
		return scan(txn, h.task.key(partBound, h.number), nil, func(item *badger.Item) (bool, error) {
			value, err := valueOf(item)
			if err == nil && len(value) == 8 {
				bound = max(bound, int64(binary.BigEndian.Uint64(value)))
			}
			return true, err
		})
	})
	return bound, err
}
