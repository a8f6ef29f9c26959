package microstore

import (
	"fmt"
	"math"
	"testing"
)

// TestEvictedListsAreTold is about gone: while memory is short, what was evicted is found again and what never was
// hardly costs a read, below the horizon, through several generations and for times before 1970.
func TestEvictedListsAreTold(t *testing.T) {
	for _, from := range []int64{-1 << 40, 0, 1 << 40} {
		t.Run(fmt.Sprint(from), func(t *testing.T) {
			dir := t.TempDir()
			s, err := open(small(dir), settings{cache: 50_000})
			check(t, err)
			h := newHistory(t, s, HistoryConfig{})
			const n = 20_000 // lists; a generation of a shard remembers 64
			b := s.NewBatch()
			for i := range n {
				// The shard's last key is asked for before it is written, as a join asks for a partner.
				key := fmt.Sprint(i)
				if v := must[View](t)(h.View(key, "m", from)); v.Len() != 0 {
					t.Fatalf("key %s has %d entries before it is written", key, v.Len())
				}
				added := must[bool](t)(h.Append(b, key, "m", &Entry{Time: from + int64(i), ID: "id"}, from))
				if !added {
					t.Fatalf("key %s was not added", key)
				}
				if b.Len() >= 50 {
					commit(t, s, b)
					b = s.NewBatch()
				}
			}
			commit(t, s, b)
			if h.shards[0].gone.old.lists == 0 || h.shards[0].gone.known <= from {
				t.Fatal("no generation was forgotten; the test has to write more")
			}
			loads := s.Stats().Loads
			for i := range 1000 {
				if v := must[View](t)(h.View(fmt.Sprint("new ", i), "m", from+n-n/20)); v.Len() != 0 {
					t.Fatalf("key %d has %d entries", i, v.Len())
				}
			}
			if more := s.Stats().Loads - loads; more > 50 {
				t.Errorf("1000 keys that never were cost %d reads", more)
			}
			for i := range n {
				if v := must[View](t)(h.View(fmt.Sprint(i), "m", from)); v.Len() != 1 || v.At(0).Time != from+int64(i) {
					t.Fatalf("evicted key %d has %d entries", i, v.Len())
				}
			}
			check(t, s.Close())

			s, err = open(small(dir), settings{cache: 50_000}) // too many to be remembered
			check(t, err)
			h = newHistory(t, s, HistoryConfig{})
			for i := range n {
				if v := must[View](t)(h.View(fmt.Sprint(i), "m", from)); v.Len() != 1 {
					t.Fatalf("after a reopen key %d has %d entries", i, v.Len())
				}
			}
			check(t, s.Close())
		})
	}
}

// TestEvictedListsTakeFewBytes: what is remembered of a list is so little that a store knows millions of them.
func TestEvictedListsTakeFewBytes(t *testing.T) {
	const n, limit = 200_000, 50_000 // three generations are forgotten
	g, memory := gone{known: math.MinInt64}, budget{}
	wrong := 0
	for i := range n {
		if g.has(listKey{fmt.Sprint(i), "m"}.hash()) {
			wrong++
		}
		g.add(listKey{fmt.Sprint(i), "m"}.hash(), int64(i), limit, &memory)
		if used, most := memory.used.Load(), int64(2*4*min(i+1, limit)+1000); used > most {
			t.Fatalf("%d bytes are used after %d lists, at most %d are allowed", used, i+1, most)
		}
	}
	if wrong > n/50 {
		t.Errorf("%d of %d lists that were not there seemed to be", wrong, n)
	}
	for i := n - limit; i < n; i++ {
		if !g.has(listKey{fmt.Sprint(i), "m"}.hash()) {
			t.Fatalf("list %d is not known", i)
		}
	}
	if g.known <= 0 || g.known > n-limit {
		t.Errorf("known is %d", g.known)
	}
	g.forget(&memory)
	if used := memory.used.Load(); used != 0 {
		t.Errorf("%d bytes are used after all is forgotten", used)
	}
}

// TestListsOnDiskAreKnownAfterReopen: what was there before, and does not fit into memory, is found, and what never was
// hardly costs a read, below the horizon.
func TestListsOnDiskAreKnownAfterReopen(t *testing.T) {
	dir := t.TempDir()
	const n, from = 5000, int64(1 << 40)
	s, err := open(small(dir), settings{cache: 200_000})
	check(t, err)
	h := newHistory(t, s, HistoryConfig{})
	b := s.NewBatch()
	for i := range 2 * n { // two entries of each list, far apart
		e := &Entry{Time: from + int64(i), ID: fmt.Sprint(i)}
		if !must[bool](t)(h.Append(b, fmt.Sprint(i%n), "m", e, from)) {
			t.Fatalf("entry %d was not added", i)
		}
		if b.Len() >= 100 {
			commit(t, s, b)
			b = s.NewBatch()
		}
	}
	commit(t, s, b)
	check(t, s.Close())

	s, err = open(small(dir), settings{cache: 200_000})
	check(t, err)
	h = newHistory(t, s, HistoryConfig{})
	for i := range 1000 {
		if v := must[View](t)(h.View(fmt.Sprint("new ", i), "m", from)); v.Len() != 0 {
			t.Fatalf("key %d has %d entries", i, v.Len())
		}
	}
	if loads := s.Stats().Loads; loads > 50 {
		t.Errorf("1000 keys that never were cost %d reads", loads)
	}
	for i := range n {
		if v := must[View](t)(h.View(fmt.Sprint(i), "m", from)); v.Len() != 2 || v.At(1).Time != from+int64(n+i) {
			t.Fatalf("key %d has %d entries", i, v.Len())
		}
	}
	check(t, s.Close())
}

// TestSweepWaitsUntilItIsWorthIt looks at every key a few times in its life, not at every call.
func TestSweepWaitsUntilItIsWorthIt(t *testing.T) {
	s := mustOpen(t, small(t.TempDir()))
	h := newHistory(t, s, HistoryConfig{})
	const n, keep = 4000, 1000
	removed, looks := 0, 0
	for i := range n {
		b := s.NewBatch()
		_ = must[bool](t)(h.Append(b, fmt.Sprint(i), "", &Entry{Time: int64(i), ID: "id"}, int64(i-keep)))
		before := h.cursor
		removed += must[int](t)(h.Sweep(b, int64(i-keep), 100))
		if h.cursor != nil || before != nil {
			looks++
		}
		commit(t, s, b)
	}
	left := n - removed
	if left < keep || left > keep+keep/2 {
		t.Errorf("%d entries are left on disk of %d that are kept", left, keep)
	}
	if looks > n/2 {
		t.Errorf("%d of %d calls looked at the disk", looks, n)
	}
	check(t, s.Close())
}
