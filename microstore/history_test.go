package microstore

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func newHistory(t *testing.T, s *Store, cfg HistoryConfig) *History {
	t.Helper()
	return must[*History](t)(must[*Task](t)(s.Task("task")).History("history", cfg))
}

// fillHistory appends an entry at second i to key i, for i < n, with a retention of ten seconds, and commits
// in parts.
func fillHistory(t *testing.T, s *Store, h *History, n int) {
	t.Helper()
	b := s.NewBatch()
	for i := range n {
		at := int64(i) * 1e9
		must[bool](t)(h.Append(b, fmt.Sprint(i), "", &Entry{Time: at, ID: "id", Value: make([]byte, 100)}, at-10e9))
		if i%50 == 49 {
			commit(t, s, b)
			b = s.NewBatch()
		}
	}
	commit(t, s, b)
}

// TestAbsentListsDoNotReadTheDisk is about the horizon: new keys are the common case, and must not cost a read.
func TestAbsentListsDoNotReadTheDisk(t *testing.T) {
	dir := t.TempDir()
	const n, budget = 4000, 600_000
	s, err := open(small(dir), settings{cache: budget})
	check(t, err)
	h := newHistory(t, s, HistoryConfig{})
	fillHistory(t, s, h, n)
	// A shard may have to give up young lists for others that are pinned until their commit: hence not 0.
	loads := s.Stats().Loads
	if loads > n/100 {
		t.Errorf("appends to new keys read the disk %d times", loads)
	}
	if used := s.Stats().CacheBytes; used > budget+50*700 || used < budget/2 { // what is not committed stays

		t.Errorf("cache uses %d bytes of %d", used, budget)
	}
	if s.Stats().Evicted == 0 {
		t.Error("nothing was evicted")
	}
	late := int64(n) * 1e9 // nothing is as late as that
	if v := must[View](t)(h.View("absent", "", late)); v.Len() != 0 || s.Stats().Loads != loads {
		t.Errorf("%d entries, %d loads", v.Len(), s.Stats().Loads)
	}
	if v := must[View](t)(h.View("0", "", noFloor)); v.Len() != 1 || s.Stats().Loads != loads+1 {
		t.Errorf("an evicted list: %d entries, %d loads", v.Len(), s.Stats().Loads)
	}
	check(t, s.Close())

	s, err = open(small(dir), settings{cache: budget}) // too large to be loaded: the persisted bound is the horizon
	check(t, err)
	h = newHistory(t, s, HistoryConfig{})
	if v := must[View](t)(h.View("absent", "", late+2*boundSlack)); v.Len() != 0 || s.Stats().Loads != 0 {
		t.Errorf("reopened: %d entries, %d loads", v.Len(), s.Stats().Loads)
	}
	for _, i := range []int{0, n / 2, n - 1} {
		b := s.NewBatch()
		if added := must[bool](t)(h.Append(b, fmt.Sprint(i), "", &Entry{Time: int64(i) * 1e9, ID: "id"}, noFloor)); added {
			t.Errorf("duplicate %d was added after a reopen", i)
		}
		b.Rollback(Mark{})
	}
	check(t, s.Close())

	s = mustOpen(t, small(dir)) // small enough to be loaded whole
	h = newHistory(t, s, HistoryConfig{})
	for i := range n {
		if v := must[View](t)(h.View(fmt.Sprint(i), "", noFloor)); v.Len() != 1 {
			t.Fatalf("key %d has %d entries", i, v.Len())
		}
	}
	if v := must[View](t)(h.View("absent", "", noFloor)); v.Len() != 0 || s.Stats().Loads != 0 {
		t.Errorf("loaded whole: %d entries, %d loads", v.Len(), s.Stats().Loads)
	}
}

func TestSweepRemovesWhatHasExpired(t *testing.T) {
	s := mustOpen(t, small(t.TempDir()))
	h := newHistory(t, s, HistoryConfig{})
	fillHistory(t, s, h, 1000)
	before := s.Stats().CacheBytes
	const floor = 700 * int64(1e9)
	removed := 0
	for range 11 {
		b := s.NewBatch()
		removed += must[int](t)(h.Sweep(b, floor, 100))
		commit(t, s, b)
	}
	if removed < 700 || removed > 800 { // the second round may see some again
		t.Errorf("removed %d", removed)
	}
	if report := must[Report](t)(s.Verify(t.Context())); report.Entries != 300 {
		t.Errorf("%d entries are left", report.Entries)
	}
	if after := s.Stats().CacheBytes; after > before/2 {
		t.Errorf("cache: %d bytes, then %d", before, after)
	}
	if v := must[View](t)(h.View("5", "", noFloor)); v.Len() != 0 {
		t.Error("an expired entry came back with a lower floor")
	}
	if _, err := h.Append(s.NewBatch(), "5", "", &Entry{Time: 5e9, ID: "x"}, noFloor); !errors.Is(err, ErrExpired) {
		t.Errorf("append before the sweeper's floor: %v", err)
	}
}

func TestHistoryInspection(t *testing.T) {
	s := mustOpen(t, small(""))
	h := newHistory(t, s, HistoryConfig{})
	b := s.NewBatch()
	for _, key := range []string{"a", "b", "cc"} {
		for i := range len(key) * 2 {
			must[bool](t)(h.Append(b, key, fmt.Sprint("m", i%2), &Entry{Time: int64(i), ID: fmt.Sprint(i), Value: []byte(key)}, noFloor))
		}
	}
	commit(t, s, b)
	var got []string
	check(t, h.All(func(key, match string, e *Entry) bool {
		got = append(got, fmt.Sprint(key, match, e.Time, string(e.Value)))
		return len(got) < 5
	}))
	check(t, h.Of("b", func(match string, e *Entry) bool { got = append(got, match); return true }))
	check(t, h.Keys("a", func(key string, n int) bool { got = append(got, fmt.Sprint(key, n)); return true }))
	check(t, h.Keys("", func(key string, n int) bool { got = append(got, key); return false }))
	want := []string{"am00a", "am11a", "bm00b", "bm11b", "ccm00cc", "m0", "m1", "b2", "cc4", "a"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestView(t *testing.T) {
	s := mustOpen(t, small(""))
	h := newHistory(t, s, HistoryConfig{})
	b := s.NewBatch()
	for _, at := range []int64{5, 1, 3, 3} {
		must[bool](t)(h.Append(b, "k", "", &Entry{Time: at, ID: fmt.Sprint(b.Len())}, noFloor))
	}
	v := must[View](t)(h.View("k", "", noFloor))
	times := func(v View) (all []int64) {
		for e := range v.Forward() {
			all = append(all, e.Time)
		}
		return all
	}
	for _, c := range []struct {
		from, to int64
		want     []int64
	}{
		{noFloor, 1 << 62, []int64{1, 3, 3, 5}}, {1, 3, []int64{1, 3, 3}}, {2, 4, []int64{3, 3}}, {3, 3, []int64{3, 3}},
		{4, 4, nil}, {6, 9, nil}, {5, 1, nil}, {5, 5, []int64{5}}, {-1, 0, nil},
	} {
		if got := times(v.Range(c.from, c.to)); !slices.Equal(got, c.want) {
			t.Errorf("range %d to %d: %v, want %v", c.from, c.to, got, c.want)
		}
	}
	if e, ok := v.Before(3); !ok || e.Time != 1 {
		t.Error(e, ok)
	}
	if _, ok := v.Before(1); ok {
		t.Error("something is before the first")
	}
	last := int64(9)
	for e := range v.Backward() {
		if e.Time > last {
			t.Errorf("%d after %d", e.Time, last)
		}
		if last = e.Time; last == 3 {
			break
		}
	}
	b.Rollback(Mark{})
	if v := must[View](t)(h.View("k", "", noFloor)); v.Len() != 0 {
		t.Errorf("%d entries after the rollback", v.Len())
	}
}

func TestLongKeysAreRefused(t *testing.T) {
	s := mustOpen(t, small(""))
	task := must[*Task](t)(s.Task("task"))
	h := newHistory(t, s, HistoryConfig{})
	b := s.NewBatch()
	long := strings.Repeat("x", 40_000)
	_, err := h.Append(b, long, long, &Entry{}, noFloor)
	for i, err := range []error{
		err, must[*Table](t)(task.Table("t")).Set(b, long+long, nil, nil), must[*Timers](t)(task.Timers()).Set(b, Timer{Key: long, ID: long}),
	} {
		if !errors.Is(err, ErrKeyTooLong) {
			t.Errorf("%d: %v", i, err)
		}
	}
	must[bool](t)(h.Append(b, long, long[:24_000], &Entry{}, noFloor))
	commit(t, s, b) // what is taken fits
	if _, err := s.Task(strings.Repeat("x", 2000)); !errors.Is(err, ErrKeyTooLong) {
		t.Error(err)
	}
	if _, err := task.History("history", HistoryConfig{MaxCount: 1}); !errors.Is(err, errOtherConfig) {
		t.Error(err)
	}
}

func TestTableCoalescesWithinABatch(t *testing.T) {
	s := mustOpen(t, small(""))
	table := must[*Table](t)(must[*Task](t)(s.Task("task")).Table("t"))
	b := s.NewBatch()
	for i := range 100 {
		check(t, table.Set(b, "k", []byte{byte(i)}, i))
	}
	if b.Len() != 1 {
		t.Errorf("%d operations for one row", b.Len())
	}
	m := b.Mark()
	check(t, table.Delete(b, "k"))
	b.Rollback(m)
	commit(t, s, b)
	if v, ok, err := s.get(append(slices.Clone(table.prefix), 'k')); !ok || err != nil || v[0] != 99 {
		t.Errorf("on disk: %v %v %v", v, ok, err)
	}
	if _, data, ok, err := table.Get("k"); data != 99 || !ok || err != nil {
		t.Errorf("in memory: %v %v %v", data, ok, err)
	}
}

func TestTimersLoadInParts(t *testing.T) {
	s := mustOpen(t, small(""))
	timers := must[*Timers](t)(must[*Task](t)(s.Task("task")).Timers())
	b := s.NewBatch()
	for i := range 10 {
		check(t, timers.Set(b, Timer{At: 7, Key: "k", ID: fmt.Sprint(i)}))
	}
	check(t, timers.Set(b, Timer{At: 9, Key: "k"}))
	commit(t, s, b)
	type load struct {
		bound  int64
		exact  bool
		popped int
	}
	var got []load
	for range 5 {
		bound, exact, err := timers.Load(8, 4)
		check(t, err)
		b := s.NewBatch()
		popped := 0
		for {
			if _, ok := timers.Pop(b, Shard("k"), bound); !ok {
				break
			}
			popped++
		}
		commit(t, s, b)
		got = append(got, load{bound, exact, popped})
	}
	if want := []load{{7, false, 4}, {7, false, 4}, {8, true, 2}, {8, true, 0}, {8, true, 0}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if at, ok, err := timers.Next(); at != 9 || !ok || err != nil {
		t.Error(at, ok, err)
	}
}

// TestValuesThatAreLetGo counts an entry for what it was appended with, when its caller lets go of its value.
func TestValuesThatAreLetGo(t *testing.T) {
	s := mustOpen(t, small(t.TempDir()))
	h := newHistory(t, s, HistoryConfig{MaxBytes: 303})
	b := s.NewBatch()
	push := func(at int64) (out []*Entry) {
		e := &Entry{Time: at, ID: fmt.Sprint(at), Value: make([]byte, 100), Data: at}
		_, out, err := h.Push(b, "k", "", e, noFloor)
		check(t, err)
		e.Value = nil
		return out
	}
	for at := range int64(3) {
		if out := push(at); len(out) != 0 {
			t.Fatalf("entry %d pushed out %d", at, len(out))
		}
	}
	used, mark := s.Stats().CacheBytes, b.Mark()
	if out := push(3); len(out) != 1 || out[0].Time != 0 {
		t.Fatalf("a fourth entry pushed out %v, not the first", out)
	}
	if now := s.Stats().CacheBytes; now != used {
		t.Errorf("one entry for another makes %d bytes of %d", now, used)
	}
	b.Rollback(mark)
	if now := s.Stats().CacheBytes; now != used {
		t.Errorf("after the rollback there are %d bytes, before there were %d", now, used)
	}
	if v := must[View](t)(h.View("k", "", noFloor)); v.Len() != 3 || v.At(0).Time != 0 {
		t.Errorf("after the rollback there are %d entries", v.Len())
	}
	commit(t, s, b)
	check(t, s.Close())
	s = mustOpen(t, small(s.cfg.Dir))
	h = newHistory(t, s, HistoryConfig{MaxBytes: 303})
	v := must[View](t)(h.View("k", "", noFloor))
	if v.Len() != 3 || len(v.At(0).Value) != 100 {
		t.Errorf("on disk there are %d entries", v.Len())
	}
}
