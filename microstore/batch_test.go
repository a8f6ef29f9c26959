package microstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// TestEncode makes values and keys of all sizes in one batch; each stays as it was made.
func TestEncode(t *testing.T) {
	s := mustOpen(t, small(""))
	wrong := errors.New("wrong")
	rapid.Check(t, func(t *rapid.T) {
		b := s.NewBatch()
		var made, want [][]byte
		for i := range rapid.IntRange(1, 60).Draw(t, "values") {
			n := rapid.OneOf(rapid.IntRange(0, 3000), rapid.IntRange(60_000, 70_000)).Draw(t, "size")
			value := bytes.Repeat([]byte{byte(i)}, n)
			switch rapid.SampledFrom([]string{"value", "key", "elsewhere", "failure"}).Draw(t, "what") {
			case "value":
				got, err := b.Encode(func(dst []byte) ([]byte, error) { return append(dst, value...), nil })
				if err != nil {
					t.Fatal(err)
				}
				made, want = append(made, got), append(want, value)
			case "key":
				made, want = append(made, b.keep(append(b.space(n), value...))), append(want, value)
			case "elsewhere": // what does not append is not the batch's
				got, err := b.Encode(func([]byte) ([]byte, error) { return slices.Clone(value), nil })
				if err != nil {
					t.Fatal(err)
				}
				made, want = append(made, got), append(want, value)
			case "failure":
				if got, err := b.Encode(func(dst []byte) ([]byte, error) { return append(dst, 0xff), wrong }); got != nil || !errors.Is(err, wrong) {
					t.Fatalf("%v, %v", got, err)
				}
			}
		}
		for i := range made {
			if !bytes.Equal(made[i], want[i]) {
				t.Fatalf("value %d of %d bytes has changed", i, len(want[i]))
			}
			if cap(made[i]) != len(made[i]) {
				t.Fatalf("who appends to value %d writes into the next one", i)
			}
		}
	})
}

// TestMemoryOfBatches commits from many goroutines at once: the memory of one batch is another's only when the database has
// what is in it.
func TestMemoryOfBatches(t *testing.T) {
	const tasks, commits, entries = 8, 40, 20
	dir := t.TempDir()
	s := mustOpen(t, small(dir))
	row := func(task, n int) []byte {
		return bytes.Repeat(binary.BigEndian.AppendUint64(nil, uint64(task<<32|n)), 100)
	}
	var wait sync.WaitGroup
	for i := range tasks {
		task := must[*Task](t)(s.Task(fmt.Sprint(i)))
		h := must[*History](t)(task.History("h", HistoryConfig{}))
		outbox := must[*Outbox](t)(s.Outbox(fmt.Sprint(i)))
		wait.Go(func() {
			for n := range commits {
				b := s.NewBatch()
				for e := range entries {
					n := n*entries + e
					value, err := b.Encode(func(dst []byte) ([]byte, error) { return append(dst, row(i, n)...), nil })
					entry := &Entry{Time: int64(n), ID: fmt.Sprint(n), Value: value, Data: n}
					if err == nil {
						_, err = h.Append(b, "k", "", entry, noFloor)
						entry.Value = nil
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
				outbox.Add(b, row(i, n))
				if err := s.Commit(t.Context(), b); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	check(t, s.Close())
	s = mustOpen(t, small(dir))
	for i := range tasks {
		task := must[*Task](t)(s.Task(fmt.Sprint(i)))
		h := must[*History](t)(task.History("h", HistoryConfig{}))
		v := must[View](t)(h.View("k", "", noFloor))
		if v.Len() != commits*entries {
			t.Fatalf("task %d has %d entries", i, v.Len())
		}
		for n := range v.Len() {
			if e := v.At(n); e.Time != int64(n) || e.ID != fmt.Sprint(n) || !bytes.Equal(e.Value, row(i, n)) {
				t.Fatalf("entry %d of task %d is at %d, has id %q and the value %x...", n, i, e.Time, e.ID, e.Value[:8])
			}
		}
		rows := must[[]Row](t)(must[*Outbox](t)(s.Outbox(fmt.Sprint(i))).Rows(0, 1<<30))
		if len(rows) != commits {
			t.Fatalf("outbox %d has %d rows", i, len(rows))
		}
		for n := range rows {
			if !bytes.Equal(rows[n].Data, row(i, n)) {
				t.Fatalf("row %d of outbox %d has %x...", n, i, rows[n].Data[:8])
			}
		}
	}
}

// TestMemoryOfWhatIsTakenBack: what a step of a batch made and was taken back, again and again, takes no more memory than once,
// and what was there before it stays as it was.
func TestMemoryOfWhatIsTakenBack(t *testing.T) {
	s := mustOpen(t, small(""))
	b := s.NewBatch()
	encode := func(c byte, n int) []byte {
		return must[[]byte](t)(b.Encode(func(dst []byte) ([]byte, error) { return append(dst, bytes.Repeat([]byte{c}, n)...), nil }))
	}
	before := encode('a', 700)
	b.Put("a", before)
	mark := b.Mark()
	for range 100 {
		for range 500 {
			b.Put("b", encode('b', 700))
		}
		if n := len(b.blocks); n > 8 {
			t.Fatalf("500 values of 700 bytes take %d blocks of %d", n, len(block{}))
		}
		b.Rollback(mark)
	}
	after := encode('c', 700)
	if string(before) != strings.Repeat("a", 700) || string(after) != strings.Repeat("c", 700) {
		t.Errorf("before it was %q, after it %q", before, after)
	}
	b.Put("c", after)
	commit(t, s, b)
	for name, want := range map[string]string{"a": strings.Repeat("a", 700), "b": "", "c": strings.Repeat("c", 700)} {
		if got, ok, err := s.Get(name); string(got) != want || ok != (want != "") || err != nil {
			t.Errorf("%s is %q, %v, %v", name, got, ok, err)
		}
	}
}
