package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/internal/delivery"
)

// reader reads one input for the delivery loop.
type reader struct {
	topic  string
	origin string
	source *source // nil until standard input is first read
	open   func() (*source, error)
	read   *atomic.Int64
	events int
	bytes  int
	start  int64                   // position to go on at
	decode func(*framework.Record) // makes an event of a line; nil: the line is the value

	index   int64 // number of the next record that the source gives
	ahead   framework.Record
	isAhead bool
	begun   bool
	slab    []byte

	wake  chan struct{}
	timer *time.Timer
	moved error // what was found while following; final when a last look brings nothing
	// interrupt ends a read that waits; nil for files, which do not wait.
	interrupt func()
}

const (
	slabBytes = 4 << 10
	// checkEvery is how many records are skipped between two looks at the context.
	checkEvery = 4096
)

func (r *reader) Next(ctx context.Context) (*framework.Batch, error) {
	if r.interrupt != nil {
		defer context.AfterFunc(ctx, r.interrupt)()
	}
	if r.source == nil {
		source, err := r.open()
		if err != nil {
			return r.fail(err)
		}
		r.source = source
	}
	if err := r.skip(ctx); err != nil {
		return r.fail(err)
	}
	b := &framework.Batch{Topic: r.topic, Origin: r.origin}
	b.Records, b.Next = nil, r.position()
	size := 0
	for {
		if !r.isAhead {
			err := r.look()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				if len(b.Records) > 0 {
					return b, nil // the source says it again
				}
				return r.fail(err)
			}
		}
		n := len(r.ahead.Value)
		full := r.events > 0 && len(b.Records) >= r.events || r.bytes > 0 && size+n > r.bytes
		if full && len(b.Records) > 0 {
			r.begun = true
			return b, nil
		}
		if b.Records == nil {
			b.Records = make([]framework.Record, 0, r.expect())
		}
		b.Records = append(b.Records, r.ahead)
		r.ahead, r.isAhead = framework.Record{}, false
		if r.decode != nil {
			r.decode(&b.Records[len(b.Records)-1])
		}
		size += n
		b.Next = r.position()
	}
	b.CaughtUp = true
	b.End = !r.source.input.Follow
	if len(b.Records) > 0 || b.End || !r.begun {
		r.begun = true
		r.moved = nil
		return b, nil
	}
	if err := r.check(); err != nil {
		return r.fail(err)
	}
	r.arm()
	return nil, nil
}

// expect is the room to make for a batch: a followed file brings a few records at a time.
func (r *reader) expect() int {
	if r.source.input.Follow {
		return 8
	}
	if r.events > 0 {
		return min(r.events, 1024)
	}
	return 1024
}

// position is the number of the next record to deliver.
func (r *reader) position() int64 {
	if r.isAhead {
		return r.ahead.Offset
	}
	return r.index
}

// look reads one record ahead and copies its value into a slab: small enough that a value which is kept
// keeps little else.
func (r *reader) look() error {
	record, err := r.source.next()
	if err != nil {
		return err
	}
	record.Offset = r.index
	r.index++
	n := len(record.Value)
	switch {
	case n > slabBytes/4:
		record.Value = bytes.Clone(record.Value)
	default:
		if cap(r.slab)-len(r.slab) < n {
			r.slab = make([]byte, 0, slabBytes)
		}
		at := len(r.slab)
		r.slab = append(r.slab, record.Value...)
		record.Value = r.slab[at : at+n : at+n]
	}
	r.ahead, r.isAhead = record, true
	return nil
}

// skip reads to the position to start from.
func (r *reader) skip(ctx context.Context) error {
	for r.index < r.start {
		if r.index%checkEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		_, err := r.source.split.next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("reading was to go on behind record %d, but there are only %d: the file was cut or replaced;"+
				" bring it back, or drop the pipeline's state", r.start, r.index)
		}
		if err != nil {
			return err
		}
		r.index++
	}
	return nil
}

func (r *reader) fail(err error) (*framework.Batch, error) {
	position := max(r.position(), r.start)
	err = fmt.Errorf("file: read %s: at record %d: %w", r.origin, position, err)
	return delivery.Failure(r.topic, 0, position, r.origin, err), err
}

// check looks whether a followed file is still the one that is read. A finding counts after one more
// look for records, since they may have been written before the file was moved.
func (r *reader) check() error {
	if r.moved != nil {
		return r.moved
	}
	path := r.source.input.Path
	named, err := os.Stat(path)
	if err != nil {
		r.moved = fmt.Errorf("the file was removed or renamed while it was followed: %w", err)
		return nil
	}
	open, err := r.source.file.Stat()
	switch {
	case err != nil:
		return err
	case !os.SameFile(named, open):
		r.moved = fmt.Errorf("another file has taken its name (rotation) while it was followed: positions are of one" +
			" file; give the new one a topic, or drop the pipeline's state")
	case open.Size() < r.source.split.offset:
		return fmt.Errorf("the file was cut from %d to %d bytes while it was followed: append to it only",
			r.source.split.offset, open.Size())
	}
	return nil
}

func (r *reader) arm() {
	if r.timer == nil {
		r.timer = time.AfterFunc(r.source.input.PollInterval, func() {
			select {
			case r.wake <- struct{}{}:
			default:
			}
		})
		return
	}
	r.timer.Reset(r.source.input.PollInterval)
}

func (r *reader) Wake() <-chan struct{} { return r.wake }

func (r *reader) Acked(int64) {}

func (r *reader) Close() {
	if r.timer != nil {
		r.timer.Stop()
	}
	if r.interrupt != nil {
		r.interrupt()
	}
	if r.source != nil {
		r.source.close()
	}
}
