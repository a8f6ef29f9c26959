package microstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("MICROSTORE_TEST_CHILD"); dir != "" {
		runChild(dir, os.Getenv("MICROSTORE_TEST_MODE"))
	}
	// glog's flusher is started by a dependency of Badger when it is loaded, and has no end.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

const noFloor = int64(math.MinInt64)

// small is a configuration that makes tests fast.
func small(dir string) Config {
	return Config{Dir: dir, InMemory: dir == "", MemoryBytes: minMemoryBytes, GCInterval: -1}
}

func mustOpen(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func commit(t testing.TB, s *Store, batches ...*Batch) {
	t.Helper()
	check(t, s.Commit(context.Background(), batches...))
}

// image copies the directory of a live store: what a kill -9 at this moment would leave.
func image(t testing.TB, from, to string) {
	t.Helper()
	check(t, copyImage(from, to))
}

// copyImage copies again until no file has come or gone meanwhile: a killed process leaves the state of one
// moment, and so must the copy. What is only written to may be torn, as it may be by a kill.
func copyImage(from, to string) error {
	for {
		before, err := listing(from)
		if err == nil {
			err = copyFiles(from, to)
		}
		after, err2 := listing(from)
		if err = errors.Join(err, err2); err == nil && before == after {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}

func copyFiles(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(to), os.MkdirAll(to, 0o700)); err != nil {
		return err
	}
	for _, entry := range entries {
		data, err := os.ReadFile(filepath.Join(from, entry.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, entry.Name()), trimZeros(data, entry.Name()), 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// trimZeros cuts the empty end of a mapped file off, but for a little of it: to save time.
func trimZeros(data []byte, name string) []byte {
	if strings.HasSuffix(name, ".mem") || strings.HasSuffix(name, ".vlog") {
		n := len(bytes.TrimRight(data, "\x00"))
		return data[:min(len(data), n+4096)]
	}
	return data
}

// listing names the files and the size of those that say which of them count.
func listing(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	var all strings.Builder
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			return "", err
		}
		size := info.Size()
		if ext := filepath.Ext(entry.Name()); ext == ".mem" || ext == ".vlog" {
			size = 0
		}
		fmt.Fprintln(&all, entry.Name(), size)
	}
	return all.String(), err
}
