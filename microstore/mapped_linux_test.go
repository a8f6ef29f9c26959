package microstore

import (
	"bufio"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/millrace/millrace/internal/failpoint"
)

// resident is how much of each mapped file of a directory is this process's memory, by smaps.
func resident(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	dir = must[string](t)(filepath.EvalSymlinks(dir))
	file := must[*os.File](t)(os.Open("/proc/self/smaps"))
	defer func() { check(t, file.Close()) }()
	found := map[string]int64{}
	name := ""
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line := lines.Text()
		if first, _, _ := strings.Cut(line, " "); strings.Contains(first, "-") {
			_, path, _ := strings.Cut(line, dir)
			name = filepath.Base(path)
			continue
		}
		var kib int64
		if _, err := fmt.Sscanf(line, "Rss: %d kB", &kib); err == nil && strings.HasSuffix(name, ".sst") {
			found[name] += kib << 10
		}
	}
	return found
}

func sum(sizes map[string]int64) (all int64) {
	for size := range maps.Values(sizes) {
		all += size
	}
	return all
}

// everything is what the store has, read through the tables.
func everything(t *testing.T, s *Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	check(t, s.view(func(txn *badger.Txn) error {
		return scan(txn, nil, nil, func(item *badger.Item) (bool, error) {
			value, err := item.ValueCopy(nil)
			all[string(item.Key())] = string(value)
			return true, err
		})
	}))
	return all
}

// TestTablesAreLetGoOf: the pages of tables that were written and read are not the process's any more, nothing of them is
// lost, and a file that is not the database's is left alone, even where its name could be.
func TestTablesAreLetGoOf(t *testing.T) {
	cfg := small(t.TempDir())
	s := must[*Store](t)(open(cfg, settings{mapped: math.MaxInt64}))
	fill(t, s, 24<<20)
	check(t, s.flush())
	want := everything(t, s)
	before := resident(t, cfg.Dir)
	if sum(before) < 8<<20 {
		t.Fatalf("of the tables %d bytes are in memory: there is nothing to let go of", sum(before))
	}

	foreign := filepath.Join(cfg.Dir, "999999.sst")
	size := int64(len(mapped(t, foreign)))

	check(t, s.letGoOfTables())
	after := resident(t, cfg.Dir)
	if got := after[filepath.Base(foreign)]; got != size {
		t.Errorf("of a file that is not the database's %d bytes are in memory, want all %d", got, size)
	}
	delete(after, filepath.Base(foreign))
	if got := sum(after); got > sum(before)/10 { // what compaction may have written meanwhile
		t.Errorf("of %d bytes of tables %d are still in memory", sum(before), got)
	}
	if !maps.Equal(everything(t, s), want) {
		t.Error("the store has not what it had")
	}
	check(t, os.Remove(foreign))
	check(t, s.Close())
	s = mustOpen(t, cfg)
	if !maps.Equal(everything(t, s), want) {
		t.Error("opened again, the store has not what it had")
	}
	check(t, s.Close())
}

// mapped maps a new file of a megabyte, all of it in memory, until the test ends.
func mapped(t *testing.T, name string) []byte {
	t.Helper()
	const size = 1 << 20
	file := must[*os.File](t)(os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600))
	check(t, file.Truncate(size))
	memory := must[[]byte](t)(syscall.Mmap(int(file.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED))
	check(t, file.Close())
	t.Cleanup(func() { check(t, syscall.Munmap(memory)) })
	for i := 0; i < size; i += 4096 {
		memory[i] = 1
	}
	return memory
}

// TestMappedIsBounded: a store that holds many times its budget does not let its tables count for all of it.
func TestMappedIsBounded(t *testing.T) {
	cfg := small(t.TempDir())
	s := mustOpen(t, cfg)
	fill(t, s, 48<<20)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(mappedInterval) { // the one who bounds it tells nobody
		got := sum(resident(t, cfg.Dir))
		if got <= cfg.mappedBytes() {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after a minute %d bytes of tables are in memory, more than %d", got, cfg.mappedBytes())
		}
	}
	check(t, s.Close())
}

// TestTablesAreHeld: tables that are taken away while they are let go of stay where they are until that is done.
func TestTablesAreHeld(t *testing.T) {
	s := must[*Store](t)(open(small(t.TempDir()), settings{mapped: math.MaxInt64}))
	fill(t, s, 24<<20)
	hit := false
	defer failpoint.Arm("store.letgo", func() error {
		hit = true
		files := held(s.cfg.Dir, s.db.Tables(), s.db.Tables())
		before, err := mappings(files)
		if err != nil || len(before) != len(files) || len(before) == 0 {
			t.Errorf("of %d tables %d are mapped: %v", len(files), len(before), err)
		}
		check(t, s.db.DropAll())
		if n := len(s.db.Tables()); n > 0 {
			t.Errorf("%d tables are left", n)
		}
		if after, err := mappings(files); err != nil || !slices.Equal(after, before) {
			t.Errorf("tables were mapped at %v, now at %v: %v", before, after, err)
		}
		return nil
	})()
	check(t, s.letGoOfTables())
	if !hit {
		t.Error("nothing was let go of")
	}
	check(t, s.Close())
}

// TestHeld: a table is only held when it was there before the iterator was made and after it.
func TestHeld(t *testing.T) {
	before := []badger.TableInfo{{ID: 1}, {ID: 2}}
	after := []badger.TableInfo{{ID: 2}, {ID: 3}}
	if got, want := held("/d", before, after), map[string]bool{"/d/000002.sst": true}; !maps.Equal(got, want) {
		t.Errorf("held are %v, want %v", got, want)
	}
}
