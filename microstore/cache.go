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
const (
	maxEvictions = 8
	maxLooks     = 4 * maxEvictions
)

// recency is a list of cached things in the order in which they are given up, as a second-chance queue: one that was
// used since it was last looked at goes to the end once more. So a use costs no more than a mark, and no look at its
// neighbours, which are not in the processor's caches. No locks: each shard has its own.
type recency[T any] struct{ newest, oldest *node[T] }

// node is a cached thing's place in a recency list, embedded in the thing.
type node[T any] struct {
	newer, older *node[T]
	thing        *T
	used         bool // since it was put where it is
}

// add puts n at the end; it may not be in.
func (r *recency[T]) add(n *node[T]) {
	n.used, n.older, n.newer = false, r.newest, nil
	if r.newest != nil {
		r.newest.newer = n
	}
	r.newest = n
	if r.oldest == nil {
		r.oldest = n
	}
}

func (r *recency[T]) remove(n *node[T]) {
	if n.newer != nil {
		n.newer.older = n.older
	} else {
		r.newest = n.older
	}
	if n.older != nil {
		n.older.newer = n.newer
	} else {
		r.oldest = n.newer
	}
	n.newer, n.older = nil, nil
}

// evict offers things to drop, while the budget is exceeded, the longest unused first, nearly. A refused one (its
// last write is not committed) counts too: behind it there are only more of them, mostly. What is used when it is looked
// at goes to the end; there are a few looks for each thing that is dropped, so a cache in which all are used gives
// up some after a few calls.
func (r *recency[T]) evict(b *budget, keep *node[T], drop func(*T) bool) {
	n := r.oldest
	for looks, offered := 0, 0; looks < maxLooks && offered < maxEvictions; looks++ {
		if n == nil || n == keep || !b.exceeded() {
			return
		}
		newer := n.newer
		if !r.spare(n) {
			drop(n.thing)
			offered++
		}
		n = newer
	}
}

// spare puts n at the end if it was used since it was last looked at.
func (r *recency[T]) spare(n *node[T]) bool {
	if !n.used {
		return false
	}
	r.remove(n)
	r.add(n)
	return true
}
