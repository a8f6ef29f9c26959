package microstore

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkHistoryHot appends 200-byte entries to 1,000 keys in memory and looks at each key's last hundred
// seconds: what a join does for an event. A commit follows each 1,000.
func BenchmarkHistoryHot(b *testing.B) { benchmarkHistory(b, 0, 1000) }

// BenchmarkHistoryCold does so for 200,000 keys with a cache for a few of them.
func BenchmarkHistoryCold(b *testing.B) { benchmarkHistory(b, 4<<20, 200_000) }

func benchmarkHistory(b *testing.B, cache int64, keys int) {
	s, err := open(Config{Dir: b.TempDir()}, settings{cache: cache})
	check(b, err)
	defer func() { check(b, s.Close()) }()
	task := must[*Task](b)(s.Task("t"))
	h := must[*History](b)(task.History("h", HistoryConfig{}))
	names := make([]string, keys)
	for i := range names {
		names[i] = fmt.Sprint("customer-", i)
	}
	value := make([]byte, 200)
	random := rand.New(rand.NewPCG(1, 2))
	batch := s.NewBatch()
	b.ReportAllocs()
	i := int64(0)
	for b.Loop() {
		i++
		key := names[random.IntN(keys)]
		now := i * 1e6
		e := &Entry{Time: now, ID: key, Value: value}
		e.ID = fmt.Sprint(i)
		must[bool](b)(h.Append(batch, key, "", e, now-100e9))
		must[View](b)(h.View(key, "", now-100e9))
		if i%1000 == 0 {
			commit(b, s, batch)
			batch = s.NewBatch()
		}
	}
	b.ReportMetric(float64(s.Stats().Loads)/float64(i), "loads/op")
}

// BenchmarkAppendMemory is the append alone, rolled back each 1,000.
func BenchmarkAppendMemory(b *testing.B) {
	s, err := Open(Config{InMemory: true, GCInterval: -1})
	check(b, err)
	defer func() { check(b, s.Close()) }()
	task := must[*Task](b)(s.Task("t"))
	h := must[*History](b)(task.History("h", HistoryConfig{}))
	value := make([]byte, 200)
	entries := make([]*Entry, 1000)
	for i := range entries {
		entries[i] = &Entry{Time: int64(i), ID: fmt.Sprint(i), Value: value}
	}
	keys := [10]string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}
	batch := s.NewBatch()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		must[bool](b)(h.Append(batch, keys[i%10], "", entries[i], 0))
		if i++; i == len(entries) {
			batch.Rollback(Mark{})
			i = 0
		}
	}
}

// BenchmarkCommit1000 commits 1,000 entries of 200 bytes; ns/op is for all of them.
func BenchmarkCommit1000(b *testing.B) {
	s, err := Open(Config{Dir: b.TempDir()})
	check(b, err)
	defer func() { check(b, s.Close()) }()
	value := make([]byte, 200)
	random := rand.New(rand.NewPCG(1, 2))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		batch := s.NewBatch()
		for range 1000 {
			n++
			key := appendPart([]byte{spaceTask, 0, 0, 0, 9, partTable, 0, 1}, fmt.Sprint("customer-", random.IntN(100_000)))
			batch.set(appendTime(key, int64(n)), value)
		}
		commit(b, s, batch)
	}
}

// BenchmarkCommitOne commits a single entry: the latency of an idle pipeline.
func BenchmarkCommitOne(b *testing.B) {
	s, err := Open(Config{Dir: b.TempDir()})
	check(b, err)
	defer func() { check(b, s.Close()) }()
	b.ReportAllocs()
	for b.Loop() {
		batch := s.NewBatch()
		batch.Put("a", make([]byte, 200))
		commit(b, s, batch)
	}
}

// BenchmarkLog appends a chunk of 20 KB and reads it, from the tail.
func BenchmarkLog(b *testing.B) {
	s, err := Open(Config{Dir: b.TempDir()})
	check(b, err)
	defer func() { check(b, s.Close()) }()
	log := must[*Log](b)(s.Log("l"))
	data := make([]byte, 20_000)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		batch := s.NewBatch()
		a := log.Append(batch, 100, 0, 0, data)
		commit(b, s, batch)
		must[[]Chunk](b)(log.Read(a.Base(), 1<<20))
	}
}

// BenchmarkLogReadDisk reads chunks of 20 KB that are not in the tail.
func BenchmarkLogReadDisk(b *testing.B) {
	s, err := open(Config{Dir: b.TempDir()}, settings{tail: 1})
	check(b, err)
	defer func() { check(b, s.Close()) }()
	log := must[*Log](b)(s.Log("l"))
	for range 500 {
		batch := s.NewBatch()
		log.Append(batch, 100, 0, 0, make([]byte, 20_000))
		commit(b, s, batch)
	}
	b.SetBytes(20_000)
	b.ReportAllocs()
	offset := int64(0)
	for b.Loop() {
		must[[]Chunk](b)(log.Read(offset, 1))
		offset = (offset + 100) % log.End()
	}
}

// BenchmarkTimers sets, loads and pops a timer.
func BenchmarkTimers(b *testing.B) {
	s, err := Open(Config{Dir: b.TempDir()})
	check(b, err)
	defer func() { check(b, s.Close()) }()
	task := must[*Task](b)(s.Task("t"))
	timers := must[*Timers](b)(task.Timers())
	b.ReportAllocs()
	i := int64(0)
	batch := s.NewBatch()
	for b.Loop() {
		i++
		check(b, timers.Set(batch, Timer{At: i, Key: "k", ID: "i"}))
		if i%1000 == 0 {
			commit(b, s, batch)
			batch = s.NewBatch()
			_, _, err := timers.Load(i-2000, 1<<20)
			check(b, err)
			for {
				if _, ok := timers.Pop(batch, Shard("k"), i-2000); !ok {
					break
				}
			}
		}
	}
}

// A commit of 1000 ids of which none was processed, with 250,000 remembered; ns/op is for an id.
func BenchmarkProcessed(b *testing.B) {
	s := mustOpen(b, Config{Dir: b.TempDir(), GCInterval: -1})
	p := must[*Processed](b)(must[*Task](b)(s.Task("task")).Processed("orders", 250_000))
	next := 0
	round := func(n int) {
		ids := make([]string, 0, n)
		for range n {
			id := fmt.Sprintf("0198a7c4-%012d", next)
			if next++; !p.Has(id) {
				ids = append(ids, id)
			}
		}
		batch := s.NewBatch()
		p.Add(batch, ids...)
		commit(b, s, batch)
	}
	for p.Len() < 250_000 {
		round(1000)
	}
	b.ResetTimer()
	for done := 0; done < b.N; done += 1000 {
		round(min(1000, b.N-done))
	}
}
