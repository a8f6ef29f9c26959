package microstore

import "iter"

// View is the live part of one history, oldest first. It shares memory with the cache: it is valid until the
// next call on the history for a key of the same shard, or the next Rollback.
type View struct{ entries []*Entry }

// ViewOf makes a view of entries that need not be of the store, in order of time, then id.
func ViewOf(entries []*Entry) View { return View{entries[:len(entries):len(entries)]} }

// Len returns the number of entries.
func (v View) Len() int { return len(v.entries) }

// At returns the entry at i, 0 being the oldest.
func (v View) At(i int) *Entry { return v.entries[i] }

// Range returns the entries with from <= Time <= to.
func (v View) Range(from, to int64) View {
	if from > to {
		return View{}
	}
	first := search(v.entries, from, "")
	rest := v.entries[first:]
	n := len(rest)
	if n > 0 && rest[n-1].Time > to { // to is before the end, so to+1 does not overflow
		n = search(rest, to+1, "")
	}
	return View{rest[:n:n]}
}

// Before returns the latest entry with Time < t.
func (v View) Before(t int64) (*Entry, bool) {
	n := search(v.entries, t, "")
	if n == 0 {
		return nil, false
	}
	return v.entries[n-1], true
}

// Forward iterates from the oldest to the newest.
func (v View) Forward() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		for _, e := range v.entries {
			if !yield(e) {
				return
			}
		}
	}
}

// Backward iterates from the newest to the oldest.
func (v View) Backward() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		for i := len(v.entries) - 1; i >= 0; i-- {
			if !yield(v.entries[i]) {
				return
			}
		}
	}
}
