package microstore

import (
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace/millrace/internal/failpoint"
)

// TestLessMemoryAfterAKill opens what a killed process left with a smaller budget: its journal does not fit one of the
// memtables that there are now.
func TestLessMemoryAfterAKill(t *testing.T) {
	for name, value := range map[string]int{"values": 300, "no values": 0} {
		t.Run(name, func(t *testing.T) {
			killed := filepath.Join(t.TempDir(), "killed")
			commits := fillJournal(t, killed, value)
			kill := errors.New("killed")
			disarm := failpoint.Arm("store.shrink", func() error { return kill })
			defer disarm()
			if _, err := Open(small(killed)); !errors.Is(err, kill) { // between the two openings
				t.Fatal(err)
			}
			disarm()
			for range 2 {
				s := must[*Store](t)(Open(small(killed)))
				got, ok, err := s.Get("commit")
				check(t, err)
				if want := strconv.Itoa(commits); !ok || string(got) != want {
					t.Errorf("the last commit is %q, want %s", got, want)
				}
				check(t, s.Close())
			}
		})
	}
}

// fillJournal leaves a copy of a store whose journal is nearly as large as the default allows, and returns the number of
// its last commit.
func fillJournal(t *testing.T, killed string, value int) (commits int) {
	t.Helper()
	cfg := Config{Dir: t.TempDir(), GCInterval: -1}
	s := mustOpen(t, cfg)
	data := []byte(strings.Repeat("v", value))
	for used := int64(0); used < cfg.WithDefaults().memtableBytes()*3/4; commits++ {
		b := s.NewBatch()
		b.Put("commit", []byte(strconv.Itoa(commits+1)))
		for i := range 1000 {
			key := strconv.Itoa(commits*1000+i) + strings.Repeat("k", 20)
			b.Put(key, data)
			used += int64(1 + len(key) + 8 + value + 32) // space, number of the commit, node
		}
		commit(t, s, b)
	}
	image(t, cfg.Dir, killed)
	check(t, s.Close())
	return commits
}
