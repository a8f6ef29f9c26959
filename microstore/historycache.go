package microstore

import (
	"math"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// historyShard is the part of a history's cache that one goroutine at a time uses; it has no lock.
//
// Invariants, with "the disk" meaning what is or is being written there:
//   - An entry of the disk with Time >= horizon whose list is not in lists does not exist.
//   - An entry of the disk with Time >= gone.known whose list is neither in lists nor in gone does not exist.
//     known is never later than horizon.
//   - An entry of the disk with Time >= list.completeFrom is in the list, unless a batch has deleted it.
//   - All entries of a list have Time >= completeFrom.
//   - What a batch that is not yet committed has written or deleted is newer than its list's completeFrom,
//     which rises only by evicting or trimming; and those happen only to lists whose last write is committed.
//     So a load, which reads below completeFrom, cannot miss a write nor bring back what was deleted.
type historyShard struct {
	history *History
	number  byte
	lists   map[listKey]*list
	recency recency[list]
	horizon int64
	gone    gone
	bound   int64 // persisted: every entry of the shard is before it
	oldest  int64 // least time appended since Sweep last went round
	newest  int64 // no entry is later
}

type listKey struct{ key, match string }

// list holds entries of one key and match value, by time and id.
type list struct {
	listKey
	shard        *historyShard
	entries      []*Entry
	ids          map[string]*Entry // for long lists; nil for short ones
	completeFrom int64
	bytes        int64
	token        *token // of the last batch that wrote
	node         node[list]
}

const (
	listOverhead  = 250 // list, its place in the map, slack of its slice
	entryOverhead = 150
	// indexFrom is the length from which a map of ids is faster than comparing them.
	indexFrom = 32
)

// entryMemory counts twice what the value takes: once for its decoded form, and once more for what that takes beside,
// or for a value that has no decoded form yet.
func entryMemory(e *Entry) int64 { return int64(entryOverhead + len(e.ID) + 2*e.valueBytes()) }

// get returns the list with every entry at or after floor; nil when it is known to be empty.
func (sh *historyShard) get(key, match string, floor int64) (*list, error) {
	l := sh.lists[listKey{key, match}]
	switch {
	case l == nil && floor >= sh.absentFrom(key, match):
		return nil, nil
	case l == nil:
		l = sh.create(key, match)
		fallthrough
	case floor < l.completeFrom:
		if err := sh.load(l, floor); err != nil {
			return nil, err
		}
		sh.recency.touch(&l.node)
		sh.evict(l)
		return l, nil
	}
	sh.recency.touch(&l.node)
	l.trim(floor)
	return l, nil
}

// absentFrom is the time from which a list that is not in memory has no entries.
func (sh *historyShard) absentFrom(key, match string) int64 {
	if sh.gone.known < sh.horizon && !sh.gone.has(key, match) {
		return sh.gone.known
	}
	return sh.horizon
}

func (sh *historyShard) create(key, match string) *list {
	l := &list{listKey: listKey{key, match}, shard: sh, completeFrom: sh.absentFrom(key, match)}
	l.node.thing = l
	sh.lists[l.listKey] = l
	sh.recency.touch(&l.node)
	l.account(int64(listOverhead + len(key) + len(match)))
	return l
}

// load reads the entries from floor up to completeFrom, which are those that memory may lack.
func (sh *historyShard) load(l *list, floor int64) error {
	h := sh.history
	h.task.store.counters.listLoads.Add(1)
	prefix := appendPart(appendPart(slices.Clone(h.prefix), l.key), l.match)
	var loaded []*Entry
	err := h.task.store.view(func(txn *badger.Txn) error {
		return scan(txn, prefix, appendTime(slices.Clone(prefix), floor), func(item *badger.Item) (bool, error) {
			rest := item.Key()[len(prefix):]
			time := readTime(rest)
			if time >= l.completeFrom {
				return false, nil
			}
			value, err := valueOf(item)
			if err != nil {
				return false, err
			}
			loaded = append(loaded, &Entry{Time: time, ID: string(rest[8:]), Value: value})
			return true, nil
		})
	})
	if err != nil {
		return err
	}
	l.entries = append(loaded, l.entries...)
	l.ids = nil
	for _, e := range loaded {
		e.bytes = e.valueBytes()
		l.account(entryMemory(e))
	}
	l.completeFrom = floor
	return nil
}

// trim lets go of expired entries; the sweeper removes them from disk.
func (l *list) trim(floor int64) {
	if len(l.entries) == 0 || l.entries[0].Time >= floor || !l.token.done() {
		return
	}
	n := search(l.entries, floor, "")
	for i, e := range l.entries[:n] {
		l.forget(e) // of two with one id the map has the later, which stays if it is live
		l.entries[i] = nil
	}
	l.completeFrom = max(l.completeFrom, floor)
	l.entries = l.entries[n:]
}

func (l *list) position(time int64, id string) int {
	if n := len(l.entries); n == 0 || l.entries[n-1].compare(time, id) < 0 {
		return n // in order, as nearly always
	}
	return search(l.entries, time, id)
}

func (l *list) has(id string, floor int64) bool {
	if len(l.entries) >= indexFrom {
		if l.ids == nil {
			l.ids = make(map[string]*Entry, 2*len(l.entries))
			for _, e := range l.entries { // of two with one id the later wins: it expires last
				l.ids[e.ID] = e
			}
		}
		e := l.ids[id]
		return e != nil && e.Time >= floor
	}
	for i := len(l.entries) - 1; i >= 0; i-- {
		if e := l.entries[i]; e.Time < floor {
			return false
		} else if e.ID == id {
			return true
		}
	}
	return false
}

func (l *list) insert(at int, e *Entry) {
	e.bytes = e.valueBytes()
	if at == len(l.entries) {
		l.entries = append(l.entries, e)
	} else {
		l.entries = slices.Insert(l.entries, at, e)
	}
	l.account(entryMemory(e))
	if l.ids != nil {
		if other := l.ids[e.ID]; other == nil || other.Time < e.Time {
			l.ids[e.ID] = e
		}
	}
}

func (l *list) remove(at int) {
	l.forget(l.entries[at])
	if l.ids != nil && len(l.ids) < len(l.entries)-1 {
		l.ids = nil // another entry may have had the same id: index again when it is needed
	}
	if at == 0 { // the oldest goes when a bound is exceeded: no need to move the others
		l.entries[0] = nil
		l.entries = l.entries[1:]
		return
	}
	l.entries = slices.Delete(l.entries, at, at+1)
}

func (l *list) forget(e *Entry) {
	l.account(-entryMemory(e))
	if l.ids[e.ID] == e {
		delete(l.ids, e.ID)
	}
}

func (l *list) account(bytes int64) {
	l.bytes += bytes
	l.shard.history.task.store.cache.add(bytes)
}

// evict makes room while the budget is exceeded, from this shard only: the others belong to other goroutines.
func (sh *historyShard) evict(keep *list) {
	if sh.history.task.store.cache.exceeded() {
		sh.recency.evict(sh.history.task.store.cache, &keep.node, sh.drop)
	}
}

// drop takes a list out of memory, unless it has writes that cannot be read back yet.
func (sh *historyShard) drop(l *list) bool {
	if !l.token.done() {
		return false
	}
	h := sh.history
	sh.horizon = max(sh.horizon, l.completeFrom)
	newest := int64(math.MinInt64) // on disk
	if l.completeFrom > math.MinInt64 {
		newest = l.completeFrom - 1
	}
	if n := len(l.entries); n > 0 {
		newest = l.entries[n-1].Time
		sh.horizon = max(sh.horizon, later(newest, 1))
	}
	if newest >= h.swept.Load() && newest > math.MinInt64 { // else nobody will ask for it again
		sh.gone.add(l.key, l.match, newest, h.goneLimit(), h.task.store.cache)
	}
	sh.recency.remove(&l.node)
	delete(sh.lists, l.listKey)
	l.account(-l.bytes)
	sh.history.task.store.counters.evictions.Add(1)
	return true
}

// goneLimit is how many lists a generation of a shard's gone remembers: together, those of all histories take a
// quarter of the budget at most, when it is large enough for them to be of use.
func (h *History) goneLimit() int {
	histories := max(1, h.task.store.histories.Load())
	return int(max(64, h.task.store.cache.limit/(4*2*goneBytes*Shards*histories)))
}

// dropExpired takes lists out of memory that have nothing at or after floor, the longest unused first, and
// stops at the first that has. It looks at up to limit lists.
func (sh *historyShard) dropExpired(floor int64, limit int) int {
	looked := 0
	for looked < limit && sh.recency.oldest != nil {
		l := sh.recency.oldest.thing
		looked++
		if n := len(l.entries); n > 0 && l.entries[n-1].Time >= floor || !l.token.done() {
			break
		}
		sh.drop(l) // what it had is before the floor, so this does not raise the horizon past it
	}
	return looked
}

func (sh *historyShard) forget() {
	for _, l := range sh.lists {
		l.account(-l.bytes)
	}
	clear(sh.lists)
	sh.gone.forget(sh.history.task.store.cache)
	sh.recency = recency[list]{}
}
