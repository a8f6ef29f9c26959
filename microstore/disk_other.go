//go:build !linux && !darwin

package microstore

import (
	"io/fs"
	"math"
	"os"
	"path/filepath"
)

// freeBytes knows no portable way to ask: on these systems the disk is not watched.
func freeBytes(string) (int64, error) { return math.MaxInt64 / 2, nil }

func allocated(info fs.FileInfo) int64 { return info.Size() }

// lockDir leaves locking to Badger.
func lockDir(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, "store.lock"), os.O_CREATE|os.O_RDWR, 0o600)
}
