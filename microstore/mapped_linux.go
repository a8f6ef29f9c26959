package microstore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/table"

	"github.com/millrace/millrace/internal/failpoint"
)

// mappedInterval is the time between two looks at how much of mapped files the process has. A second's worth of what a
// busy store writes into tables would be a hundred megabytes.
const mappedInterval = 250 * time.Millisecond

// boundMapped is the goroutine that lets go of the database's tables when more than most bytes of files count as the process's
// memory, until Close. Badger maps its tables, so that each page that was read or written once stays the
// process's until the system lacks memory: who watches processes sees one that grows with its state. What is
// let go of stays in the system's page cache, where it is found again without reading the disk.
func (s *Store) boundMapped(most int64) {
	ticker := time.NewTicker(mappedInterval)
	defer ticker.Stop()
	const much = 1 << 20
	var left, gained int64 // by the last time
	for {
		select {
		case <-s.closing:
			return
		case <-ticker.C:
		}
		mapped, err := mappedBytes()
		if err == nil && mapped > most && (mapped > left+much || gained > much) { // else it would bring nothing
			err = s.letGoOfTables()
			if err == nil {
				left, err = mappedBytes()
			}
			gained = mapped - left
		}
		switch {
		case errors.Is(err, ErrClosed):
			return
		case err != nil:
			s.log.Debug("microstore: mapped files stay in memory", "store", s.place(), "error", err)
			return
		}
	}
}

// letGoOfTables takes the pages of all tables out of the process's memory.
//
// Where a table is mapped only the system says, and Badger unmaps one as soon as nobody uses it: at its address something
// else may be by then, whose pages would be emptied. So the tables are held meanwhile, by an iterator, which uses all that
// there are when it is made. Those that were there before and are there still, which is how one knows that it has them,
// keep their addresses until it is closed.
func (s *Store) letGoOfTables() error {
	dir, err := filepath.EvalSymlinks(s.cfg.Dir)
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return err
	}
	return s.view(func(txn *badger.Txn) error {
		before := s.db.Tables()
		holder := txn.NewIterator(badger.IteratorOptions{})
		defer holder.Close()
		return letGo(held(dir, before, s.db.Tables()))
	})
}

// held are the files of the tables that are in both.
func held(dir string, before, after []badger.TableInfo) map[string]bool {
	there := make(map[uint64]bool, len(before))
	for _, t := range before {
		there[t.ID] = true
	}
	files := make(map[string]bool, len(after))
	for _, t := range after {
		if there[t.ID] {
			files[filepath.Join(dir, table.IDToFilename(t.ID))] = true
		}
	}
	return files
}

// mappedBytes is how much of files is counted as the process's memory.
func mappedBytes() (int64, error) {
	const name = "/proc/self/statm"
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(text)
	if len(fields) < 3 {
		return 0, fmt.Errorf("%s is %q", name, text)
	}
	pages, err := strconv.ParseInt(string(fields[2]), 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// letGo takes the pages of mapped files out of the process's memory. What has been written to them is not lost, since they
// are shared with the system's cache. The files may not be unmapped meanwhile.
func letGo(files map[string]bool) error {
	regions, err := mappings(files)
	if err == nil {
		err = failpoint.Hit("store.letgo")
	}
	for _, r := range regions {
		if err != nil {
			return err
		}
		if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, r.from, r.to-r.from, syscall.MADV_DONTNEED); errno != 0 {
			err = fmt.Errorf("madvise: %w", errno)
		}
	}
	return err
}

// region is where a file is mapped.
type region struct{ from, to uintptr }

func mappings(files map[string]bool) (found []region, err error) {
	maps, err := os.ReadFile("/proc/self/maps")
	for line := range strings.Lines(string(maps)) {
		// 7f3c10000000-7f3c11000000 rw-s 00000000 fd:01 1234    /var/lib/orders/000042.sst
		slash := strings.IndexByte(line, '/')
		if slash < 0 || !files[strings.TrimSuffix(line[slash:], "\n")] {
			continue
		}
		var r region
		if _, err := fmt.Sscanf(line, "%x-%x ", &r.from, &r.to); err != nil {
			return nil, fmt.Errorf("%q of /proc/self/maps: %w", line, err)
		}
		found = append(found, r)
	}
	return found, err
}
