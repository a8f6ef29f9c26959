package microstore

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/failpoint"
)

// TestListsOfOneHash: names whose hashes are the same have lists of their own, whichever of them goes first.
func TestListsOfOneHash(t *testing.T) {
	names := []listKey{{"a", ""}, {"a", "b"}, {"", "ab"}}
	for _, order := range [][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		s := must[*Store](t)(Open(small(t.TempDir())))
		sh := &newHistory(t, s, HistoryConfig{}).shards[0]
		for _, name := range names {
			sh.create(7, name, math.MinInt64)
		}
		for i, gone := range order {
			sh.remove(sh.find(7, names[gone]))
			for _, other := range order[:i+1] {
				if sh.find(7, names[other]) != nil {
					t.Fatalf("order %v: %v is found after it was removed", order, names[other])
				}
			}
			for _, other := range order[i+1:] {
				if l := sh.find(7, names[other]); l == nil || l.listKey != names[other] {
					t.Fatalf("order %v: for %v, %v is found after %v was removed", order, names[other], l, names[gone])
				}
			}
		}
		if len(sh.lists) != 0 || sh.recency.oldest != nil || s.cache.used.Load() != 0 {
			t.Fatalf("order %v: %d lists and %d bytes are left", order, len(sh.lists), s.cache.used.Load())
		}
		check(t, s.Close())
	}
}

// TestUsedListsStay: lists in use stay in memory while many more than there is room for pass by, which may take no
// more than the budget, but for what one call adds.
func TestUsedListsStay(t *testing.T) {
	const budget = 100_000
	s := must[*Store](t)(open(small(t.TempDir()), settings{cache: budget}))
	defer func() { check(t, s.Close()) }()
	h := newHistory(t, s, HistoryConfig{})
	const hot = 10
	add := func(b *Batch, key string, i int) {
		must[bool](t)(h.Append(b, key, "", &Entry{Time: int64(i), ID: fmt.Sprint(i), Value: make([]byte, 100)}, math.MinInt64))
	}
	b := s.NewBatch()
	for i := range hot {
		add(b, fmt.Sprint("hot ", i), i)
	}
	commit(t, s, b)
	for i := hot; i < 10_000; i++ {
		b := s.NewBatch()
		add(b, fmt.Sprint("passing ", i), i)
		for j := range hot {
			name := listKey{fmt.Sprint("hot ", j), ""}
			if h.shards[Shard(name.key)].find(name.hash(), name) == nil {
				t.Fatalf("list %q, which is used all the time, is gone after %d lists", name.key, i)
			}
			must[View](t)(h.View(name.key, "", 0))
		}
		commit(t, s, b)
		if used := s.cache.used.Load(); used > budget*11/10 {
			t.Fatalf("%d bytes are used after %d lists, the budget is %d", used, i, budget)
		}
	}
	if s.Stats().Evicted < 9000 {
		t.Fatalf("%d lists were evicted; the test has to add more", s.Stats().Evicted)
	}
}

// TestListKeepsNothingOfItsFirstEntry: a list begins with room for one entry, and does not keep that entry when others
// have pushed it out.
func TestListKeepsNothingOfItsFirstEntry(t *testing.T) {
	s := must[*Store](t)(Open(small(t.TempDir())))
	defer func() { check(t, s.Close()) }()
	h := newHistory(t, s, HistoryConfig{MaxCount: 2})
	b := s.NewBatch()
	for i := range 5 {
		must[bool](t)(h.Append(b, "k", "", &Entry{Time: int64(i), ID: fmt.Sprint(i)}, math.MinInt64))
	}
	name := listKey{"k", ""}
	l := h.shards[Shard("k")].find(name.hash(), name)
	if l.first[0] != nil {
		t.Errorf("the list still has entry %q", l.first[0].ID)
	}
	b.Rollback(Mark{})
	if n := len(l.entries); n != 0 {
		t.Errorf("%d entries are left after a rollback", n)
	}
}

// TestOpenedSideBySide: of tasks that are opened at the same time each sees what the others have taken of the budget.
func TestOpenedSideBySide(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, small(dir))
	h := newHistory(t, s, HistoryConfig{})
	b := s.NewBatch()
	must[bool](t)(h.Append(b, "k", "", &Entry{ID: "e"}, noFloor))
	commit(t, s, b)
	check(t, s.Close())

	s = mustOpen(t, small(dir))
	task := must[*Task](t)(s.Task("task"))
	other := must[*Task](t)(s.Task("other"))
	var opening atomic.Int32
	first := make(chan struct{}, 2)
	defer failpoint.Arm("store.warm", func() error {
		if opening.Add(1) > 1 {
			t.Error("two load at the same time, by what was free before")
		}
		first <- struct{}{}
		time.Sleep(50 * time.Millisecond) // the other has every chance
		opening.Add(-1)
		return nil
	})()
	var wait sync.WaitGroup
	wait.Go(func() {
		if _, err := task.History("history", HistoryConfig{}); err != nil {
			t.Error(err)
		}
	})
	<-first
	if _, err := other.Table("t"); err != nil {
		t.Error(err)
	}
	wait.Wait()
	if len(first) != 1 {
		t.Error("the table did not load")
	}
	check(t, s.Close())
}
