package microstore

import (
	"fmt"
	"sync/atomic"
)

// lookEvery is how many bytes are written between two looks at the free space; far less than the least
// MinFreeBytes that makes sense.
const lookEvery = 4 << 20

// diskSpace refuses commits while the disk is nearly full. Used by the committer's goroutine only, but for
// last.
type diskSpace struct {
	dir     string
	least   int64
	free    func(dir string) (int64, error)
	off     bool
	written int64 // since the last look
	looked  bool
	last    atomic.Int64
}

func (d *diskSpace) check(bytes int) error {
	if d.off {
		return nil
	}
	d.written += int64(bytes)
	if d.looked && d.written < lookEvery {
		return nil
	}
	free, err := d.free(d.dir)
	if err != nil {
		return fmt.Errorf("microstore: free space of %s: %w", d.dir, err)
	}
	d.last.Store(free)
	if free < d.least+int64(bytes) {
		d.looked = false // look again at the next commit
		return fmt.Errorf("%w: %s has %d MiB left, %d MiB have to stay free: make room, or lower Config.MinFreeBytes",
			ErrFull, d.dir, free>>20, d.least>>20)
	}
	d.looked, d.written = true, 0
	return nil
}
