package microstore

import (
	"hash/maphash"
	"math"
)

// gone remembers which lists of a shard are on disk and not in memory, by a hash of their key: 24 bytes for a list
// that took hundreds. Without it, a key that was never seen could not be told from one that was evicted once
// memory is short, and every first event of a key would read the disk in vain.
//
// It has two generations. When the young one is full the old one is forgotten, and what it knew with it: from
// then on nothing is known below known.
type gone struct {
	known      int64 // a list with entries at or after known that is not in memory is in young or old
	young, old generation
}

type generation struct {
	lists  map[uint64]struct{}
	newest int64 // of the entries of its lists
}

const goneBytes = 24

var goneSeed = maphash.MakeSeed()

func goneHash(key, match string) uint64 {
	var h maphash.Hash
	h.SetSeed(goneSeed)
	_, _ = h.WriteString(key)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(match)
	return h.Sum64()
}

// has tells whether the list may be on disk.
func (g *gone) has(key, match string) bool {
	if len(g.young.lists)+len(g.old.lists) == 0 {
		return false
	}
	hash := goneHash(key, match)
	if _, ok := g.young.lists[hash]; ok {
		return true
	}
	_, ok := g.old.lists[hash]
	return ok
}

// add remembers a list whose newest entry on disk has that time; limit bounds a generation.
func (g *gone) add(key, match string, newest int64, limit int, memory *budget) {
	if newest < g.known {
		return
	}
	if len(g.young.lists) >= limit {
		memory.add(-goneBytes * int64(len(g.old.lists)))
		g.known = max(g.known, later(g.old.newest, 1))
		g.old, g.young = g.young, generation{}
	}
	if g.young.lists == nil {
		g.young = generation{lists: map[uint64]struct{}{}, newest: math.MinInt64}
		if g.old.lists == nil {
			g.old.newest = math.MinInt64
		}
	}
	before := len(g.young.lists)
	g.young.lists[goneHash(key, match)] = struct{}{}
	g.young.newest = max(g.young.newest, newest)
	memory.add(goneBytes * int64(len(g.young.lists)-before))
}

// forget gives the memory back.
func (g *gone) forget(memory *budget) {
	memory.add(-goneBytes * int64(len(g.young.lists)+len(g.old.lists)))
	*g = gone{known: g.known}
}
