package microstore

import "sync/atomic"

// budget is a number of bytes shared by caches that evict for themselves when it is exceeded.
type budget struct {
	limit int64
	used  atomic.Int64
}

func (b *budget) add(bytes int64) { b.used.Add(bytes) }
func (b *budget) exceeded() bool  { return b.used.Load() > b.limit }

// maxEvictions bounds what one call gives up, so that a cache which others have filled is not emptied at
// once by whoever comes next. It is more than one call adds, so the budget holds.
const maxEvictions = 8

// recency is a list of cached things by their last use. No locks: each shard has its own.
type recency[T any] struct{ newest, oldest *node[T] }

// node is a cached thing's place in a recency list, embedded in the thing.
type node[T any] struct {
	newer, older *node[T]
	thing        *T
}

func (r *recency[T]) touch(n *node[T]) {
	if r.newest == n {
		return
	}
	r.remove(n)
	n.older = r.newest
	if r.newest != nil {
		r.newest.newer = n
	}
	r.newest = n
	if r.oldest == nil {
		r.oldest = n
	}
}

// remove takes n out; it may not be in.
func (r *recency[T]) remove(n *node[T]) {
	if n.newer != nil {
		n.newer.older = n.older
	} else if r.newest == n {
		r.newest = n.older
	}
	if n.older != nil {
		n.older.newer = n.newer
	} else if r.oldest == n {
		r.oldest = n.newer
	}
	n.newer, n.older = nil, nil
}

// evict offers things to drop, the longest unused first, while the budget is exceeded. A refused one (its
// last write is not committed) counts too: behind it there are only more of them, mostly.
func (r *recency[T]) evict(b *budget, keep *node[T], drop func(*T) bool) {
	n := r.oldest
	for range maxEvictions {
		if n == nil || n == keep || !b.exceeded() {
			return
		}
		newer := n.newer
		drop(n.thing)
		n = newer
	}
}
