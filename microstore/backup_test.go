package microstore

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

type (
	badgerTxn  = badger.Txn
	badgerItem = badger.Item
)

func TestBackupRoundTrip(t *testing.T) {
	base := t.TempDir()
	from := filepath.Join(base, "from")
	damageStore(t, from)
	s := mustOpen(t, small(from))
	var backup bytes.Buffer
	check(t, s.Backup(t.Context(), &backup))
	want := must[Report](t)(s.Verify(t.Context()))

	to := filepath.Join(base, "to")
	check(t, Restore(t.Context(), small(to), bytes.NewReader(backup.Bytes())))
	if outcome, err := readDamaged(to); outcome != "intact 60" || err != nil {
		t.Errorf("restored store: %q %v", outcome, err)
	}
	restored, err := Open(small(to))
	check(t, err)
	if got := must[Report](t)(restored.Verify(t.Context())); got != want {
		t.Errorf("restored %+v, want %+v", got, want)
	}
	o := must[*Outbox](t)(restored.Outbox("task0")) // and it goes on where it was
	b := restored.NewBatch()
	row := o.Add(b, nil)
	commit(t, restored, b)
	if row.Seq() != 61 {
		t.Errorf("next row is %d", row.Seq())
	}
	check(t, restored.Close())

	if err := Restore(t.Context(), small(to), bytes.NewReader(backup.Bytes())); err == nil {
		t.Error("restored over a store")
	}
	for name, damage := range map[string]func([]byte) []byte{
		"cut":     func(d []byte) []byte { return d[:len(d)-1] },
		"half":    func(d []byte) []byte { return d[:len(d)/2] },
		"altered": func(d []byte) []byte { return flip(d, len(d)/2) },
		"header":  func(d []byte) []byte { return flip(d, 0) },
	} {
		dir := filepath.Join(base, name)
		err := Restore(t.Context(), small(dir), bytes.NewReader(damage(bytes.Clone(backup.Bytes()))))
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
		if left := must[[]os.DirEntry](t)(os.ReadDir(dir)); len(left) > 0 {
			t.Errorf("%s: %v is left over", name, left)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Backup(ctx, new(bytes.Buffer)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestOutboxGivesDiskSpaceBack sends 160 MiB through an outbox and measures the value log.
func TestOutboxGivesDiskSpaceBack(t *testing.T) {
	s := mustOpen(t, small(t.TempDir()))
	o := must[*Outbox](t)(s.Outbox("o"))
	var seqs []int64
	random := rand.NewChaCha8([32]byte{})
	for range 160 {
		b := s.NewBatch()
		data := make([]byte, 1<<20)
		must[int](t)(random.Read(data)) // which cannot be packed
		row := o.Add(b, data)
		commit(t, s, b)
		seqs = append(seqs, row.Seq())
	}
	keep := seqs[len(seqs)-3:]
	before := s.Stats().VlogBytes
	b := s.NewBatch()
	o.Remove(b, seqs[:len(seqs)-3]...)
	commit(t, s, b)
	check(t, s.collect())
	check(t, s.collect()) // what the first run has moved may be dropped by the second
	after := s.Stats()
	t.Logf("value log: %d MiB, then %d MiB; %+v", before>>20, after.VlogBytes>>20, after)
	if before < 150<<20 || after.VlogBytes > before/2 || after.GCReclaimed == 0 {
		t.Errorf("value log: %d bytes, then %d", before, after.VlogBytes)
	}
	rows := must[[]Row](t)(o.Rows(0, 1<<30))
	if n, size := o.Backlog(); n != 3 || size != 3*(1<<20+1) || len(rows) != 3 || rows[0].Seq() != keep[0] || len(rows[2].Data) != 1<<20 {
		t.Errorf("backlog %d, %d bytes; %d rows", n, size, len(rows))
	}
}

func TestOutboxNumbersAreNotUsedAgain(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(small(dir))
	check(t, err)
	o := must[*Outbox](t)(s.Outbox("o"))
	for want := int64(1); want <= 3; want++ {
		b := s.NewBatch()
		row := o.Add(b, []byte("x"))
		o.SetPosition(b, 10*want)
		commit(t, s, b)
		if row.Seq() != want {
			t.Errorf("row %d, want %d", row.Seq(), want)
		}
	}
	b := s.NewBatch()
	o.Remove(b, 3, 2)
	o.Remove(b, 1)
	commit(t, s, b)
	check(t, s.Close())
	s = mustOpen(t, small(dir))
	o = must[*Outbox](t)(s.Outbox("o"))
	b = s.NewBatch()
	row := o.Add(b, []byte("x"))
	commit(t, s, b)
	if row.Seq() != 4 {
		t.Errorf("row %d was there before", row.Seq())
	}
	if p, ok, err := o.Position(); p != 30 || !ok || err != nil {
		t.Error(p, ok, err)
	}
}
