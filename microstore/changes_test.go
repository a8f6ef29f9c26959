package microstore

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"pgregory.net/rapid"
)

// slice reads all that the slice of a task has on disk, by names instead of numbers. Bounds of shards are left out:
// they differ by process.
func slice(t *rapid.T, s *Store, name string) map[string]string {
	task, err := s.Task(name)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	err = s.view(func(txn *badger.Txn) error {
		return scan(txn, task.base, nil, func(item *badger.Item) (bool, error) {
			value, err := valueOf(item)
			rest := item.Key()[len(task.base):]
			part, of := rest[0], ""
			if part == partNames || part == partBound {
				return err == nil, err
			}
			if kind := kindOf(part); kind != 0 && err == nil {
				of, err = task.nameOf(kind, uint16(rest[1])<<8|uint16(rest[2]))
				rest = rest[2:]
			}
			all[fmt.Sprintf("%d %s %x", part, of, rest[1:])] = string(value)
			return err == nil, err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Whoever applies the copies of a round and the changes between and after them has the slice, in another store that
// numbers its parts otherwise, whatever the round began with and however it is cut; and also when it applies a part twice.
func TestChangesMakeTheSlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		open := func() *Store {
			s, err := Open(Config{InMemory: true, MemoryBytes: 32 << 20})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		from, to := open(), open()
		defer func() { must(errors.Join(from.Close(), to.Close())) }()
		task, err := from.Task("t")
		must(err)
		tables := map[string]*Table{}
		histories := map[string]*History{}
		for _, name := range []string{"a", "b"} {
			tables[name], err = task.Table(name)
			must(err)
			histories[name], err = task.History(name, HistoryConfig{MaxCount: 3})
			must(err)
		}
		timers, err := task.Timers()
		must(err)
		processed, err := task.Processed("p", 5)
		must(err)
		other, err := to.Task("t")
		must(err)
		_, err = other.Table("b") // so that numbers differ
		must(err)
		other.Close()
		other, err = to.Task("t")
		must(err)

		var log [][]byte
		var cursor []byte
		begun, ended := -1, false
		key := rapid.SampledFrom([]string{"k1", "k2", "k3"})
		name := rapid.SampledFrom([]string{"a", "b"})
		for i := range rapid.IntRange(1, 40).Draw(t, "commits") {
			b := from.NewBatch()
			for range rapid.IntRange(0, 6).Draw(t, "writes") {
				k, n, at := key.Draw(t, "key"), name.Draw(t, "name"), int64(rapid.IntRange(0, 9).Draw(t, "time"))
				mark := b.Mark()
				switch rapid.IntRange(0, 6).Draw(t, "write") {
				case 0:
					must(tables[n].Set(b, k, []byte(fmt.Sprint(i)), nil))
				case 1:
					must(tables[n].Delete(b, k))
				case 2, 3:
					_, err := histories[n].Append(b, k, "m", &Entry{Time: at, ID: fmt.Sprint(i), Value: bytes.Repeat([]byte{byte(i)}, i*20)}, math.MinInt64)
					if !errors.Is(err, ErrExpired) {
						must(err)
					}
				case 4:
					_, err := histories[n].Delete(b, k, "m", at, fmt.Sprint(i-1))
					must(err)
				case 5:
					must(timers.Set(b, Timer{At: at, Step: 1, Key: k, ID: n}))
				case 6:
					must(timers.Delete(b, Timer{At: at, Step: 1, Key: k, ID: n}))
				}
				if rapid.IntRange(0, 9).Draw(t, "taken back") == 0 {
					b.Rollback(mark)
				}
			}
			processed.Add(b, fmt.Sprint(i))
			task.SetMeta(b, []byte(fmt.Sprint(i)))
			changes, err := task.Changes(b)
			must(err)
			must(from.Commit(t.Context(), b))
			log = append(log, changes)
			if begun < 0 && rapid.IntRange(0, 3).Draw(t, "begin") == 0 {
				begun = len(log)
			}
			if begun >= 0 && !ended {
				var piece []byte
				piece, cursor, err = task.Copy(cursor, rapid.IntRange(1, 400).Draw(t, "piece"))
				must(err)
				log, ended = append(log, piece), cursor == nil
			}
		}
		if !ended {
			begun = 0 // from the beginning, with or without copies
		}
		replay := other.Replay()
		log = log[begun:]
		again := rapid.IntRange(0, len(log)).Draw(t, "again from")
		for _, part := range [][][]byte{log[:rapid.IntRange(again, len(log)).Draw(t, "up to")], log[again:]} {
			for _, changes := range part {
				must(replay.Apply(t.Context(), changes))
			}
			must(replay.Commit(t.Context(), nil))
		}
		want, got := slice(t, from, "t"), slice(t, to, "t")
		for k, v := range want {
			if w, ok := got[k]; !ok || w != v {
				t.Fatalf("%s is %q, want %q", k, w, v)
			}
		}
		for k := range got {
			if _, ok := want[k]; !ok {
				t.Fatalf("%s is there, and should not", k)
			}
		}
	})
}

// Changes larger than a commit of the store that takes them are applied in several; what is damaged is told.
func TestChangesOfALargerStore(t *testing.T) {
	from, to := mustOpen(t, Config{InMemory: true, MemoryBytes: 256 << 20}), mustOpen(t, Config{InMemory: true, MemoryBytes: 32 << 20})
	task, err := from.Task("t")
	if err != nil {
		t.Fatal(err)
	}
	table, err := task.Table("a")
	if err != nil {
		t.Fatal(err)
	}
	b := from.NewBatch()
	for i := 0; b.Bytes() < 2*to.MaxBatchBytes(); i++ {
		if err := table.Set(b, fmt.Sprint(i), bytes.Repeat([]byte{1}, 1000), nil); err != nil {
			t.Fatal(err)
		}
	}
	changes, err := task.Changes(b)
	if err != nil {
		t.Fatal(err)
	}
	other, err := to.Task("t")
	if err != nil {
		t.Fatal(err)
	}
	replay := other.Replay()
	if err := errors.Join(replay.Apply(t.Context(), changes), replay.Commit(t.Context(), nil)); err != nil {
		t.Fatal(err)
	}
	restored, err := other.Table("a")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := restored.All(func(_ string, v []byte) bool { n++; return len(v) == 1000 }); err != nil || n != b.Len() {
		t.Errorf("%d rows, want %d: %v", n, b.Len(), err)
	}
	plain, _ := unpack(changes)
	for _, damaged := range [][]byte{nil, {9}, append([]byte{packedNot}, plain[:len(plain)-1]...), {packedNot, 1, 'b', 200, 'a'}} {
		if err := replay.Apply(t.Context(), damaged); !errors.Is(err, errChanges) {
			t.Errorf("damaged changes give %v", err)
		}
	}
}
