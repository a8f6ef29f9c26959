package microstore

import (
	"hash/maphash"
	"math"
	"math/bits"
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
	lists   map[uint64]*list // by hash
	recency recency[list]
	horizon int64
	gone    gone
	bound   int64 // persisted: every entry of the shard is before it
	oldest  int64 // least time appended since Sweep last went round
	newest  int64 // no entry is later
}

type listKey struct{ key, match string }

var listSeed = maphash.MakeSeed()

// hash is what lists are found by in memory, and known by when they are gone. It is made once for each use of a list: a
// map by listKey made it at every look, and took more than twice the memory.
func (k listKey) hash() uint64 {
	h := maphash.String(listSeed, k.key)
	if k.match == "" {
		return h
	}
	return bits.RotateLeft64(h, 32) ^ maphash.String(listSeed, k.match)
}

// list holds entries of one key and match value, by time and id.
type list struct {
	listKey
	hash         uint64
	next         *list // of the same hash
	shard        *historyShard
	entries      []*Entry
	first        [1]*Entry         // what entries is at the beginning: most lists of a join never have another
	ids          map[string]*Entry // for long lists; nil for short ones
	completeFrom int64
	newest       int64 // no entry of it is later, in memory or on disk
	bytes        int64
	token        *token // of the last batch that wrote
	node         node[list]
}

const (
	listOverhead  = 200 // list, its place in the map, slack of its slice
	entryOverhead = 150
	// indexFrom is the length from which a map of ids is faster than comparing them.
	indexFrom = 32
)

// entryMemory counts twice what the value takes: once for its decoded form, and once more for what that takes beside,
// or for a value that has no decoded form yet.
func entryMemory(e *Entry) int64 { return int64(entryOverhead + len(e.ID) + 2*e.valueBytes()) }

// get returns the list with every entry at or after floor. One that is known to be empty is made or, without create, nil.
func (sh *historyShard) get(name listKey, floor int64, create bool) (*list, error) {
	hash := name.hash()
	l := sh.find(hash, name)
	if l == nil {
		from := sh.absentFrom(hash)
		if floor >= from && !create {
			return nil, nil
		}
		l = sh.create(hash, name, from)
	} else {
		l.node.used = true
	}
	if floor >= l.completeFrom {
		l.trim(floor)
		return l, nil
	}
	if err := sh.load(l, floor); err != nil {
		return nil, err
	}
	sh.evict(l)
	return l, nil
}

func (sh *historyShard) find(hash uint64, name listKey) *list {
	l := sh.lists[hash]
	for l != nil && l.listKey != name {
		l = l.next
	}
	return l
}

// absentFrom is the time from which a list that is not in memory has no entries.
func (sh *historyShard) absentFrom(hash uint64) int64 {
	if sh.gone.known < sh.horizon && !sh.gone.has(hash) {
		return sh.gone.known
	}
	return sh.horizon
}

// create makes a list that has no entries at or after from, in memory or on disk.
func (sh *historyShard) create(hash uint64, name listKey, from int64) *list {
	l := &list{listKey: name, hash: hash, next: sh.lists[hash], shard: sh, completeFrom: from, newest: from}
	if from > math.MinInt64 {
		l.newest--
	}
	l.entries = l.first[:0]
	l.node.thing = l
	sh.lists[hash] = l
	sh.recency.add(&l.node)
	l.account(int64(listOverhead + len(name.key) + len(name.match)))
	return l
}

// remove takes a list out of lists and recency.
func (sh *historyShard) remove(l *list) {
	sh.recency.remove(&l.node)
	switch first := sh.lists[l.hash]; {
	case first != l:
		for first.next != l {
			first = first.next
		}
		first.next = l.next
	case l.next != nil:
		sh.lists[l.hash] = l.next
	default:
		delete(sh.lists, l.hash)
	}
	l.account(-l.bytes)
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
	l.newest = max(l.newest, e.Time)
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
	if l.first[0] == e {
		l.first[0] = nil // entries may have grown out of it long ago
	}
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
	if l.newest > math.MinInt64 {
		sh.horizon = max(sh.horizon, later(l.newest, 1))
	}
	if l.newest >= h.swept.Load() && l.newest > math.MinInt64 { // else nobody will ask for it again
		sh.gone.add(l.hash, l.newest, h.goneLimit(), h.task.store.cache)
	}
	sh.remove(l)
	sh.history.task.store.counters.evictions.Add(1)
	return true
}

// goneLimit is how many lists a generation of a shard's gone remembers: together, those of all histories take a
// quarter of the budget at most, when it is large enough for them to be of use.
func (h *History) goneLimit() int {
	histories := max(1, h.task.store.histories.Load())
	return int(max(64, h.task.store.cache.limit/(4*2*goneBytes*Shards*histories)))
}

// dropExpired takes lists out of memory that have nothing at or after floor, the longest unused first, nearly, and
// stops at the first that has and is not used. It looks at up to limit lists.
func (sh *historyShard) dropExpired(floor int64, limit int) int {
	looked := 0
	for looked < limit && sh.recency.oldest != nil {
		l := sh.recency.oldest.thing
		looked++
		if n := len(l.entries); n > 0 && l.entries[n-1].Time >= floor || !l.token.done() {
			if !sh.recency.spare(&l.node) {
				break
			}
			continue
		}
		sh.drop(l) // what it had is before the floor, so this does not raise the horizon past it
	}
	return looked
}

func (sh *historyShard) forget() {
	for n := sh.recency.oldest; n != nil; n = n.newer {
		n.thing.account(-n.thing.bytes)
	}
	clear(sh.lists)
	sh.gone.forget(sh.history.task.store.cache)
	sh.recency = recency[list]{}
}
