package microstore

import (
	"math/rand/v2"
	"strconv"
	"testing"
)

// TestTablesDoNotGrow fills a store with many times its budget: tables, and with them the buffers in which they are made, stay
// as large as they are. Level zero has memtables, and may merge some of them into one.
func TestTablesDoNotGrow(t *testing.T) {
	cfg := small(t.TempDir())
	s := mustOpen(t, cfg)
	fill(t, s, 128<<20)
	deep := 0
	for _, table := range s.db.Tables() {
		if table.Level == 0 {
			continue
		}
		deep++
		if most := cfg.tableBytes() * 5 / 4; int64(table.OnDiskSize) > most {
			t.Errorf("a table of level %d has %d bytes, more than %d", table.Level, table.OnDiskSize, most)
		}
	}
	if deep == 0 {
		t.Error("no table is below level zero")
	}
	check(t, s.Close())
}

// fill appends to histories until so many bytes of values are in the store.
func fill(t *testing.T, s *Store, bytes int) {
	t.Helper()
	task := must[*Task](t)(s.Task("t"))
	h := must[*History](t)(task.History("h", HistoryConfig{}))
	random := rand.New(rand.NewPCG(1, 2))
	const size, many = 2000, 150
	for i := 0; i < bytes/size; i += many {
		b := s.NewBatch()
		for n := i; n < i+many; n++ {
			e := &Entry{Time: int64(n), ID: strconv.Itoa(n), Value: make([]byte, size)}
			must[bool](t)(h.Append(b, strconv.Itoa(random.Int()), "", e, 0))
		}
		commit(t, s, b)
	}
}
