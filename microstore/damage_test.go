package microstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"

	"github.com/millrace/millrace/internal/failpoint"
)

// damageStore makes a store with tables, a value log and a journal, of 60 commits.
func damageStore(t *testing.T, dir string) {
	s, err := Open(small(dir))
	check(t, err)
	p := must[childParts](t)(childOpen(s, 0))
	for i := int64(1); i <= 60; i++ {
		b := s.NewBatch()
		number := binary.BigEndian.AppendUint64(nil, uint64(i))
		must[bool](t)(p.history.Append(b, "key", "", &Entry{Time: i, ID: fmt.Sprint(i), Value: bytes.Repeat(number, 100)}, noFloor))
		check(t, p.table.Set(b, "row", number, nil))
		p.outbox.Add(b, bytes.Repeat(number, 5000))
		p.log.Append(b, 1, i, i, number)
		p.task.SetMeta(b, number)
		commit(t, s, b)
		if i == 20 || i == 40 {
			check(t, s.flush())
		}
	}
	image(t, dir, dir+"-killed")
	check(t, s.Close())
}

// openDamaged is run in a child, because Badger ends the process when one of its assertions fails. It prints
// the error that names the damage, or the position at which everything fits together.
func openDamaged(dir string) {
	outcome, err := readDamaged(dir)
	if err != nil {
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
			fmt.Println("nameless:", err)
			os.Exit(1)
		}
		outcome = "error " + err.Error()
	}
	fmt.Println(outcome)
	os.Exit(0)
}

func readDamaged(dir string) (string, error) {
	s, err := Open(small(dir))
	if err != nil {
		return "", err
	}
	defer s.Close()
	if _, err := s.Verify(context.Background()); err != nil {
		return "", err
	}
	if names, err := s.Tasks(); err != nil || len(names) == 0 {
		return "intact 0", err
	}
	p, err := childOpen(s, 0)
	if err != nil {
		return "", err
	}
	n, err := p.position()
	if err != nil {
		return "", err
	}
	v, err := p.history.View("key", "", noFloor)
	if err != nil {
		return "", err
	}
	rows, err := p.outbox.Rows(0, 1<<30)
	if err != nil {
		return "", err
	}
	row, _, _, err := p.table.Get("row")
	if err != nil {
		return "", err
	}
	if int64(v.Len()) != n || int64(len(rows)) != n || p.log.End() != n || n > 0 && int64(binary.BigEndian.Uint64(row)) != n {
		return fmt.Sprintf("wrong: position %d, history %d, outbox %d, log %d, row %x", n, v.Len(), len(rows), p.log.End(), row), nil
	}
	for i := range v.Len() {
		number := binary.BigEndian.AppendUint64(nil, uint64(i+1))
		if !bytes.Equal(v.At(i).Value, bytes.Repeat(number, 100)) || !bytes.Equal(rows[i].Data, bytes.Repeat(number, 5000)) {
			return fmt.Sprintf("wrong: entry or row %d", i), nil
		}
	}
	return fmt.Sprint("intact ", n), nil
}

// TestDamage alters the files of a closed and of a killed store, one at a time. Whatever is done to a file,
// the store either names the damage or is at one of its commits; data is never wrong without a word. An
// earlier commit than the last is possible only by cutting the newest journal, as a power loss does.
func TestDamage(t *testing.T) {
	base := filepath.Join(t.TempDir(), "store")
	damageStore(t, base)
	damages := map[string]func([]byte) []byte{
		"empty":   func([]byte) []byte { return nil },
		"removed": nil,
		"half":    func(d []byte) []byte { return d[:len(d)/2] },
		"cut":     func(d []byte) []byte { return d[:len(d)-min(len(d), 5)] },
		"start":   func(d []byte) []byte { return flip(d, 0) },
		"early":   func(d []byte) []byte { return flip(d, min(len(d)-1, 70)) },
		"middle":  func(d []byte) []byte { return flip(d, len(d)/2) },
		"late":    func(d []byte) []byte { return flip(d, len(d)-9) },
		"zeros":   func(d []byte) []byte { clear(d[len(d)/3 : len(d)/2]); return d },
	}
	seen := map[string]int{}
	for _, store := range []string{base, base + "-killed"} {
		for _, entry := range must[[]os.DirEntry](t)(os.ReadDir(store)) {
			kind := strings.TrimPrefix(filepath.Ext(entry.Name()), ".")
			if kind == "" {
				kind = entry.Name()
			}
			if kind == "lock" || kind == "LOCK" || (kind == "sst" && seen[kind] > 1) {
				continue
			}
			seen[kind]++
			for name, damage := range damages {
				dir := filepath.Join(t.TempDir(), "copy")
				image(t, store, dir)
				path := filepath.Join(dir, entry.Name())
				if damage == nil {
					check(t, os.Remove(path))
				} else {
					data := must[[]byte](t)(os.ReadFile(path))
					if data = bytes.TrimRight(data, "\x00"); len(data) < 10 {
						continue
					}
					check(t, os.WriteFile(path, damage(data), 0o600))
				}
				child := exec.Command(os.Args[0])
				child.Env = append(os.Environ(), "MICROSTORE_TEST_CHILD="+dir, "MICROSTORE_TEST_MODE=damaged")
				out, err := child.CombinedOutput()
				outcome := strings.TrimSpace(string(out))
				label := fmt.Sprintf("%s %s %s", filepath.Base(store), entry.Name(), name)
				t.Logf("%s: %.230s", label, outcome)
				switch {
				case err != nil || strings.HasPrefix(outcome, "wrong"):
					t.Errorf("%s: %v: %.600s", label, err, outcome)
				case strings.HasPrefix(outcome, "intact") && outcome != "intact 60" && kind != "mem":
					t.Errorf("%s: went back to %q", label, outcome)
				}
			}
		}
	}
}

func flip(data []byte, at int) []byte {
	data[at] ^= 0x55
	return data
}

// TestHoleBetweenJournals cuts the end of a journal that is not the newest: what follows it must not be used.
func TestHoleBetweenJournals(t *testing.T) {
	dir := t.TempDir()
	journal := func(name string, commits ...int) {
		data := make([]byte, journalHeader)
		for _, c := range commits {
			data = append(data, journalTestEntry([]byte("k"), []byte("v"), 1<<6)...)
			data = append(data, journalTestEntry([]byte("!badger!txn"), fmt.Append(nil, c), finBit)...)
		}
		check(t, os.WriteFile(filepath.Join(dir, name), append(data, make([]byte, 100)...), 0o600))
	}
	journal("00001.mem", 5, 6, 7)
	journal("00002.mem", 8, 9)
	journal("00003.mem")
	if last, _, err := checkJournals(dir, 4); err != nil || last != 9 {
		t.Errorf("last commit %d: %v", last, err)
	}
	if _, _, err := checkJournals(dir, 3); err == nil {
		t.Error("a hole after the tables was not found")
	}
	journal("00001.mem", 5, 6)
	if _, _, err := checkJournals(dir, 4); err == nil || !strings.Contains(err.Error(), "00002.mem begins with commit 8") {
		t.Errorf("a hole was not found: %v", err)
	}
}

func journalTestEntry(key, value []byte, meta byte) []byte {
	data := []byte{meta, 0}
	data = binary.AppendUvarint(data, uint64(len(key)))
	data = binary.AppendUvarint(data, uint64(len(value)))
	data = binary.AppendUvarint(data, 0)
	data = append(append(data, key...), value...)
	return binary.BigEndian.AppendUint32(data, crc32.Checksum(data, castagnoli))
}

// TestKilledWhileOpening leaves what a process does that is killed while it opens a store whose journal holds nothing: Badger
// removes the journal, and makes another. The first such process may be that which makes the store, another comes when all
// that was committed is in tables.
func TestKilledWhileOpening(t *testing.T) {
	made := map[string]func(t *testing.T, dir, killed string){
		"new": func(t *testing.T, dir, killed string) {
			db := must[*badger.DB](t)(badger.Open(badgerOptions(small(dir).WithDefaults())))
			image(t, dir, killed)
			check(t, db.Close())
		},
		"flushed": func(t *testing.T, dir, killed string) {
			s := must[*Store](t)(Open(small(dir)))
			b := s.NewBatch()
			b.Put("name", []byte("value"))
			commit(t, s, b)
			check(t, s.flush())
			image(t, dir, killed)
			check(t, s.Close())
		},
	}
	for name, make := range made {
		t.Run(name, func(t *testing.T) {
			killed := filepath.Join(t.TempDir(), "killed")
			make(t, t.TempDir(), killed)
			journals := must[[]string](t)(filepath.Glob(filepath.Join(killed, "*.mem")))
			if len(journals) == 0 {
				t.Fatal("there is no journal to remove")
			}
			for range 2 { // the second one finds no journal
				kill := errors.New("killed")
				disarm := failpoint.Arm("store.open", func() error { return kill })
				_, err := Open(small(killed))
				disarm()
				if !errors.Is(err, kill) {
					t.Fatal(err)
				}
				for _, journal := range journals {
					check(t, os.RemoveAll(journal))
				}
			}
			s := must[*Store](t)(Open(small(killed)))
			value, ok, err := s.Get("name")
			check(t, err)
			if want := name == "flushed"; ok != want || want && string(value) != "value" {
				t.Errorf("%q, %t", value, ok)
			}
			check(t, s.Close())
		})
	}
}
