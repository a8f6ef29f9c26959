package microstore

import "math"

// gone remembers which lists of a shard are on disk and not in memory, in Bloom filters: two to eight bytes for a list
// that took hundreds. Without it, a key that was never seen could not be told from one that was evicted once
// memory is short, and every first event of a key would read the disk in vain. About one in two hundred still does: a
// filter may say yes where the truth is no, never the reverse.
//
// It has two generations. When the young one is full the old one is forgotten, and what it knew with it: from
// then on nothing is known below known.
type gone struct {
	known      int64 // a list with entries at or after known that is not in memory is in young or old
	young, old generation
}

// generation is a row of filters of which each holds three times as many lists as all before it, so that few lists take little
// memory and many are not asked for in many places. Only the last one has room.
type generation struct {
	filters []bloom
	lists   int   // in all filters
	room    int   // in the last
	newest  int64 // of the entries of its lists
}

const (
	goneBytes = bloomEntryBytes // of a list in a full filter
	goneFirst = 64              // lists of the first filter
)

// has tells whether a list of that hash may be on disk.
func (g *gone) has(hash uint64) bool {
	if g.young.lists+g.old.lists == 0 {
		return false
	}
	return g.young.has(hash) || g.old.has(hash)
}

// add remembers a list whose newest entry on disk has that time; limit bounds a generation's lists.
func (g *gone) add(hash uint64, newest int64, limit int, memory *budget) {
	if newest < g.known {
		return
	}
	if g.young.lists >= limit {
		memory.add(-g.old.bytes())
		if g.old.lists > 0 {
			g.known = max(g.known, later(g.old.newest, 1))
		}
		g.old, g.young = g.young, generation{}
	}
	memory.add(g.young.add(hash, newest, limit))
}

// forget gives the memory back.
func (g *gone) forget(memory *budget) {
	memory.add(-g.young.bytes() - g.old.bytes())
	*g = gone{known: g.known}
}

func (g *generation) has(hash uint64) bool {
	for i := len(g.filters) - 1; i >= 0; i-- { // the largest first
		if g.filters[i].has(hash) {
			return true
		}
	}
	return false
}

// add returns how many bytes it took.
func (g *generation) add(hash uint64, newest int64, limit int) (bytes int64) {
	if g.lists == 0 {
		g.newest = math.MinInt64
	}
	g.newest = max(g.newest, newest)
	if g.has(hash) {
		return 0
	}
	if g.room == 0 {
		g.room = max(goneFirst, min(3*g.lists, limit-g.lists))
		f := newBloom(g.room)
		g.filters = append(g.filters, f)
		bytes = f.bytes()
	}
	g.filters[len(g.filters)-1].add(hash)
	g.lists++
	g.room--
	return bytes
}

func (g *generation) bytes() int64 {
	bytes := int64(0)
	for _, f := range g.filters {
		bytes += f.bytes()
	}
	return bytes
}
