package microstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/internal/failpoint"
)

func TestConfigReportsEveryFault(t *testing.T) {
	err := Config{MemoryBytes: 1}.Validate()
	if err == nil || !strings.Contains(err.Error(), "Config.Dir") || !strings.Contains(err.Error(), "Config.MemoryBytes") {
		t.Error(err)
	}
	if err := (Config{Dir: "x", InMemory: true}).Validate(); err == nil {
		t.Error("Dir and InMemory together")
	}
}

func TestDefaultCommitHoldsFourMiB(t *testing.T) {
	s := mustOpen(t, Config{InMemory: true})
	if s.MaxBatchBytes() < 4<<20 {
		t.Errorf("a commit holds %d bytes", s.MaxBatchBytes())
	}
}

func TestOpenRefuses(t *testing.T) {
	open := func(t *testing.T, dir string, want error) {
		t.Helper()
		s, err := Open(small(dir))
		if !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), dir) {
			t.Errorf("got %v, want %v", err, want)
		}
		if s != nil {
			check(t, s.Close())
		}
	}
	t.Run("locked", func(t *testing.T) {
		dir := t.TempDir()
		s := mustOpen(t, small(dir))
		open(t, dir, ErrLocked)
		check(t, s.Close())
		mustOpen(t, small(dir))
	})
	t.Run("unwritable", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		check(t, os.WriteFile(file, nil, 0o600))
		open(t, filepath.Join(file, "store"), ErrUnwritable)
	})
	t.Run("read-only", func(t *testing.T) {
		dir := t.TempDir()
		check(t, os.Chmod(dir, 0o500))
		unprivileged(t, func() { open(t, dir, ErrUnwritable) })
	})
	for _, format := range []uint32{formatVersion - 1, formatVersion + 1} {
		t.Run(fmt.Sprint("format ", format), func(t *testing.T) {
			dir := t.TempDir()
			s, err := Open(small(dir))
			check(t, err)
			check(t, s.apply(func(b *Batch) { b.set(formatKey, binary.BigEndian.AppendUint32(nil, format)) }))
			check(t, s.Close())
			open(t, dir, ErrFormat)
		})
	}
	t.Run("another program's", func(t *testing.T) {
		dir := t.TempDir()
		s, err := Open(small(dir))
		check(t, err)
		check(t, s.apply(func(b *Batch) { b.delete(formatKey) }))
		check(t, s.Close())
		open(t, dir, ErrFormat)
	})
}

func TestNamedValues(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(small(dir))
	check(t, err)
	b := s.NewBatch()
	b.Put("a", []byte("1"))
	b.Put("b", []byte{})
	m := b.Mark()
	b.Put("a", []byte("2"))
	b.Rollback(m)
	commit(t, s, b)
	check(t, s.Close())
	s = mustOpen(t, small(dir))
	if v, ok, err := s.Get("a"); string(v) != "1" || !ok || err != nil {
		t.Errorf("a: %q %v %v", v, ok, err)
	}
	if v, ok, err := s.Get("b"); len(v) != 0 || !ok || err != nil {
		t.Errorf("b: %q %v %v", v, ok, err)
	}
	b = s.NewBatch()
	b.Put("a", nil)
	commit(t, s, b)
	if _, ok, err := s.Get("a"); ok || err != nil {
		t.Errorf("a is still there: %v", err)
	}
	b = s.NewBatch()
	b.Put(strings.Repeat("x", 2000), nil)
	if err := s.Commit(t.Context(), b); !errors.Is(err, ErrKeyTooLong) {
		t.Error(err)
	}
}

func TestFullDiskRefusesAndRecovers(t *testing.T) {
	free := int64(1 << 30)
	cfg := small(t.TempDir())
	s, err := open(cfg, settings{free: func(string) (int64, error) { return free, nil }})
	check(t, err)
	defer func() { check(t, s.Close()) }()
	task := must[*Task](t)(s.Task("t"))
	table := must[*Table](t)(task.Table("table"))
	free = defaultMinFreeBytes / 2
	random := rand.NewChaCha8([32]byte{})
	row := make([]byte, 1<<20)
	b := s.NewBatch()
	for i := range 32 { // it looks every few MiB only, as they are on disk
		check(t, table.Set(b, "k", []byte(fmt.Sprint(i)), nil))
		o := must[*Outbox](t)(s.Outbox("o"))
		must[int](t)(random.Read(row)) // which cannot be packed
		o.Add(b, row)
		if err = s.Commit(t.Context(), b); err != nil {
			break
		}
		b = s.NewBatch()
	}
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), cfg.Dir) {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), b); !errors.Is(err, ErrFull) {
		t.Fatal("second try:", err)
	}
	free = 1 << 30
	commit(t, s, b)
}

func TestTooBigLeavesTheBatch(t *testing.T) {
	s := mustOpen(t, small(t.TempDir()))
	b := s.NewBatch()
	b.Put("first", []byte("1"))
	m := b.Mark()
	for i := 0; b.Bytes() <= s.MaxBatchBytes(); i++ {
		b.Put(fmt.Sprint("n", i), nil)
	}
	if err := s.Commit(t.Context(), b); !errors.Is(err, ErrTooBig) {
		t.Fatal(err)
	}
	b.Rollback(m)
	for i := 0; ; i++ { // what Bytes allows is what Badger takes
		m = b.Mark()
		b.Put(fmt.Sprint("n", i), make([]byte, i%300))
		if b.Bytes() > s.MaxBatchBytes() {
			b.Rollback(m)
			break
		}
	}
	commit(t, s, b)
	if _, ok, err := s.Get("n7"); !ok || err != nil {
		t.Error(ok, err)
	}
}

func TestFailureSticks(t *testing.T) {
	for _, point := range []string{"store.commit.before", "store.commit.after"} {
		s := mustOpen(t, small(t.TempDir()))
		broken := errors.New("broken")
		disarm := failpoint.Arm(point, func() error { return broken })
		err := s.apply(func(b *Batch) { b.Put("a", []byte("1")) })
		disarm()
		if !errors.Is(err, ErrFailed) || !errors.Is(err, broken) {
			t.Errorf("%s: %v", point, err)
		}
		if err := s.apply(func(b *Batch) { b.Put("b", []byte("1")) }); !errors.Is(err, ErrFailed) || !errors.Is(err, broken) {
			t.Errorf("after %s: %v", point, err)
		}
	}
}

func TestClosedStore(t *testing.T) {
	s := mustOpen(t, small(""))
	task := must[*Task](t)(s.Task("t"))
	timers := must[*Timers](t)(task.Timers())
	log := must[*Log](t)(s.Log("l"))
	b := s.NewBatch()
	check(t, s.Close())
	check(t, s.Close())
	_, _, get := s.Get("a")
	_, again := s.Task("t")
	_, meta := task.Meta()
	_, _, next := timers.Next()
	_, read := log.Read(0, 1)
	for i, err := range []error{get, again, meta, next, read, s.Commit(context.Background(), b), s.Backup(context.Background(), new(bytes.Buffer))} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

func TestCanceledCommitWritesNothing(t *testing.T) {
	s := mustOpen(t, small(""))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b := s.NewBatch()
	b.Put("a", []byte("1"))
	if err := s.Commit(ctx, b); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	commit(t, s, b) // it is still valid
}

func TestDropTask(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(small(dir))
	check(t, err)
	fill := func(name string) {
		task := must[*Task](t)(s.Task(name))
		h := must[*History](t)(task.History("h", HistoryConfig{}))
		b := s.NewBatch()
		must[bool](t)(h.Append(b, "k", "", &Entry{Time: 1, ID: "a", Value: []byte(name)}, noFloor))
		task.SetMeta(b, []byte(name))
		commit(t, s, b)
	}
	fill("one")
	fill("two")
	one := must[*Task](t)(s.Task("one"))
	check(t, one.Drop())
	check(t, one.Drop())
	expect := func() {
		t.Helper()
		if names := must[[]string](t)(s.Tasks()); !slices.Equal(names, []string{"two"}) {
			t.Errorf("tasks: %v", names)
		}
		if report := must[Report](t)(s.Verify(t.Context())); report.Entries != 1 {
			t.Errorf("left over: %+v", report)
		}
	}
	expect()
	check(t, s.Close())
	s, err = Open(small(dir))
	check(t, err)
	expect()
	one = must[*Task](t)(s.Task("one"))
	if meta := must[[]byte](t)(one.Meta()); meta != nil {
		t.Errorf("meta of a new task is %q", meta)
	}
	h := must[*History](t)(one.History("h", HistoryConfig{}))
	if v := must[View](t)(h.View("k", "", noFloor)); v.Len() != 0 {
		t.Errorf("history of a new task has %d entries", v.Len())
	}
	check(t, s.Close())
}

// TestDropIsFinishedAfterACrash kills a drop between its first commit and the removal of the slice.
func TestDropIsFinishedAfterACrash(t *testing.T) {
	dir, copied := t.TempDir(), t.TempDir()
	s := mustOpen(t, small(dir))
	task := must[*Task](t)(s.Task("one"))
	b := s.NewBatch()
	task.SetMeta(b, []byte("x"))
	commit(t, s, b)
	hits := 0
	defer failpoint.Arm("store.commit.after", func() error {
		if hits++; hits == 1 {
			image(t, dir, copied)
		}
		return nil
	})()
	check(t, task.Drop())
	s2 := mustOpen(t, small(copied))
	err := s2.view(func(txn *badgerTxn) error {
		return scan(txn, task.base, nil, func(item *badgerItem) (bool, error) {
			t.Errorf("left over: %x", item.Key())
			return true, nil
		})
	})
	check(t, err)
}
