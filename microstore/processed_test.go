package microstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func processed(t interface {
	Helper()
	Fatal(...any)
}, s *Store, limit int) *Processed {
	t.Helper()
	task, err := s.Task("task")
	if err != nil {
		t.Fatal(err)
	}
	p, err := task.Processed("orders", limit)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestProcessedModel compares the ids that are remembered with a list of all that were added: after commits, rollbacks
// and when the slice is read from the database again.
func TestProcessedModel(t *testing.T) {
	s := mustOpen(t, small(""))
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 40).Draw(t, "limit")
		task, err := s.Task("task")
		if err == nil {
			err = task.Drop()
		}
		if err != nil {
			t.Fatal(err)
		}
		p := processed(t, s, limit)
		var added []string // committed, or of the batch
		most := 0          // ids in one Add
		check := func() {
			if n := p.Len(); n < min(limit, len(added)) || n > limit+most {
				t.Fatalf("%d ids are remembered of %d, the limit is %d and an Add had up to %d", n, len(added), limit, most)
			}
			for i, id := range added {
				if newest := i >= len(added)-p.Len(); p.Has(id) != newest {
					t.Fatalf("id %d of %d: Has says %v, %d are remembered", i, len(added), p.Has(id), p.Len())
				}
			}
			if p.Has("never") {
				t.Fatal("has an id that was never added")
			}
		}
		next := 0
		fresh := func(n int) (ids []string) {
			for range n {
				ids = append(ids, fmt.Sprint("id ", next))
				next++
			}
			return ids
		}
		for range rapid.IntRange(1, 30).Draw(t, "batches") {
			b := s.NewBatch()
			before, length := len(added), p.Len()
			for range rapid.IntRange(1, 3).Draw(t, "adds") {
				ids := fresh(rapid.IntRange(0, 20).Draw(t, "ids"))
				most = max(most, len(ids))
				p.Add(b, ids...)
				added = append(added, ids...)
				check()
			}
			if rapid.Bool().Draw(t, "roll back") {
				b.Rollback(Mark{})
				added = added[:before]
				if p.Len() != length {
					t.Fatalf("%d ids after a rollback, %d before", p.Len(), length)
				}
				check()
			}
			if err := s.Commit(context.Background(), b); err != nil {
				t.Fatal(err)
			}
			if rapid.IntRange(0, 4).Draw(t, "reopen") == 0 {
				length := p.Len()
				if report, err := s.Verify(context.Background()); err != nil || report.Processed != int64(length) {
					t.Fatalf("Verify: %v, %d ids on disk, %d in memory", err, report.Processed, length)
				}
				task, err := s.Task("task")
				if err != nil {
					t.Fatal(err)
				}
				task.Close()
				p = processed(t, s, limit)
				if p.Len() != length {
					t.Fatalf("%d ids after a reopen, %d before", p.Len(), length)
				}
				check()
			}
		}
	})
}

// What was added and not committed is gone when the slice is closed, and the memory is given back.
func TestProcessedOfAClosedSlice(t *testing.T) {
	s := mustOpen(t, small(""))
	before := s.Stats().CacheBytes
	p := processed(t, s, 100)
	b := s.NewBatch()
	p.Add(b, "a", "b")
	commit(t, s, b)
	p.Add(s.NewBatch(), "c")
	if s.Stats().CacheBytes == before {
		t.Error("ids count for nothing in the memory budget")
	}
	must[*Task](t)(s.Task("task")).Close()
	if now := s.Stats().CacheBytes; now != before {
		t.Errorf("%d bytes of cache after the slice was closed, %d before", now, before)
	}
	if p = processed(t, s, 100); !p.Has("a") || !p.Has("b") || p.Has("c") {
		t.Errorf("a %v, b %v, c %v", p.Has("a"), p.Has("b"), p.Has("c"))
	}
}

// A lower limit takes effect little by little.
func TestProcessedWithALowerLimit(t *testing.T) {
	s := mustOpen(t, small(""))
	p := processed(t, s, 10_000)
	for i := range 2000 {
		b := s.NewBatch()
		p.Add(b, fmt.Sprint(i))
		commit(t, s, b)
	}
	p = processed(t, s, 1)
	for i := range 50 {
		b := s.NewBatch()
		p.Add(b, fmt.Sprint("more ", i))
		if b.Len() > 100 {
			t.Fatalf("%d operations at once", b.Len())
		}
		commit(t, s, b)
	}
	if p.Len() != 1 || !p.Has("more 49") {
		t.Errorf("%d ids are remembered, the limit is 1", p.Len())
	}
	task := must[*Task](t)(s.Task("task"))
	if _, err := task.Processed("x", 0); err == nil || !strings.Contains(err.Error(), "limit is 0") {
		t.Errorf("a limit of 0: %v", err)
	}
	if _, err := task.Processed(strings.Repeat("x", 2000), 1); !errors.Is(err, ErrKeyTooLong) {
		t.Errorf("a name of 2000 bytes: %v", err)
	}
}
