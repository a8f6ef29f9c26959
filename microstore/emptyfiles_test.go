package microstore

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestFilesOfNoLength opens what a kill leaves between the making of a file and the setting of its length, and between
// its being cut to nothing and its removal.
func TestFilesOfNoLength(t *testing.T) {
	base := filepath.Join(t.TempDir(), "store")
	s := mustOpen(t, small(base))
	h := must[*History](t)(must[*Task](t)(s.Task("task")).History("history", HistoryConfig{}))
	const entries = 20
	for i := range int64(entries) {
		b := s.NewBatch()
		must[bool](t)(h.Append(b, "key", "", &Entry{Time: i, ID: fmt.Sprint(i), Value: make([]byte, 100)}, noFloor))
		commit(t, s, b)
	}
	for _, names := range [][]string{
		{"00000.mem"}, {"00009.mem"}, {"000000.vlog"}, {"000009.vlog"}, {"00000.mem", "00009.mem", "000000.vlog", "000009.vlog"},
	} {
		t.Run(fmt.Sprint(names), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "copy")
			image(t, base, dir)
			for _, name := range names {
				check(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
			}
			for range 2 { // and nothing about it is remembered
				s, err := Open(small(dir))
				check(t, err)
				h := must[*History](t)(must[*Task](t)(s.Task("task")).History("history", HistoryConfig{}))
				if v := must[View](t)(h.View("key", "", noFloor)); v.Len() != entries {
					t.Errorf("%d entries", v.Len())
				}
				check(t, s.Close())
			}
		})
	}
}
