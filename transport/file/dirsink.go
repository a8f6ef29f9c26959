package file

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/millrace/millrace/framework"
)

// dirPublisher appends to the files of a Dir.
type dirPublisher struct {
	dir *Dir

	mu     sync.Mutex
	files  map[string]*appending
	closed bool
}

var _ interface {
	framework.Publisher
	framework.Resumer
} = (*dirPublisher)(nil)

// appending is an open topic.
//
// Unlike a sink that is a file by itself, a topic is not cut back at a start: a reader may be past that place, and other
// programs may have appended to it. What stands behind the committed position is remembered instead, and a record whose
// line is there already is left out. So after a crash nothing is there twice, and readers never see a line go.
type appending struct {
	file     *os.File
	position int64                     // the end of what was written, or found, last
	torn     bool                      // an error has left it open what stands behind position
	there    map[[sha256.Size]byte]int // lines behind the committed position, by hash
	buf      []byte
}

// recallBytes bounds what is looked at behind a position. It is more than a relay has sent and not forgotten, with
// framework.Config.OutboxBytes up to its default.
const recallBytes = 128 << 20

// Publish appends records with one write.
func (p *dirPublisher) Publish(ctx context.Context, topic string, records []framework.Record) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("file: publish to %q: %w", topic, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a, err := p.open(topic)
	if err == nil {
		err = a.write(records)
	}
	if err != nil {
		return fmt.Errorf("file: publish to %q: %w", topic, err)
	}
	return nil
}

// Resume looks at what stands behind a position. Not ok: nothing was ever forgotten, so all may have been sent.
func (p *dirPublisher) Resume(_ context.Context, topic string, position int64, ok bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, err := p.open(topic)
	if err == nil {
		err = a.recall(position)
	}
	if err != nil {
		return fmt.Errorf("file: resume %q: %w", topic, err)
	}
	return nil
}

// Position is the end of what was written last.
func (p *dirPublisher) Position(topic string) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.files[topic]; a != nil {
		return a.position
	}
	return 0
}

// Close closes the files. It may be called twice.
func (p *dirPublisher) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var faults []error
	for topic, a := range p.files {
		faults = append(faults, a.file.Close())
		delete(p.files, topic)
	}
	return errors.Join(faults...)
}

func (p *dirPublisher) open(topic string) (*appending, error) {
	if a := p.files[topic]; a != nil {
		return a, nil
	}
	if p.closed {
		return nil, errors.New("publisher is closed")
	}
	file, err := os.OpenFile(p.dir.file(topic), os.O_RDWR|os.O_APPEND, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no %s; make it with CreateTopic", framework.ErrNoTopic, p.dir.file(topic))
	}
	if err != nil {
		return nil, err
	}
	a := &appending{file: file, there: make(map[[sha256.Size]byte]int)}
	stat, err := file.Stat()
	if err == nil {
		a.position = stat.Size()
		err = a.cutTorn(stat.Size())
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	p.files[topic] = a
	return a, nil
}

// recall remembers the lines behind a position, or the last of them.
func (a *appending) recall(position int64) error {
	stat, err := a.file.Stat()
	if err != nil {
		return err
	}
	size := stat.Size()
	if position > size {
		return shorter(a.file.Name(), size, position)
	}
	from := max(position, size-recallBytes)
	lines := bufio.NewReaderSize(io.NewSectionReader(a.file, from, size-from), 64<<10)
	clear(a.there)
	for at := from; ; {
		text, err := lines.ReadBytes('\n')
		at += int64(len(text))
		if errors.Is(err, io.EOF) {
			a.position = at - int64(len(text))
			return a.cutTorn(size)
		}
		if err != nil {
			return err
		}
		a.there[sha256.Sum256(text)]++
	}
}

// cutTorn cuts off what stands behind the last newline: half a line that a crash has left.
func (a *appending) cutTorn(size int64) error {
	const step = 64 << 10
	for end := size; end > 0; {
		from := max(end-step, 0)
		part := make([]byte, end-from)
		if _, err := a.file.ReadAt(part, from); err != nil {
			return err
		}
		if at := bytes.LastIndexByte(part, '\n'); at >= 0 {
			a.position = from + int64(at) + 1
			break
		}
		end, a.position = from, 0
	}
	if size == 0 || a.position == size {
		return nil
	}
	return a.file.Truncate(a.position)
}

func (a *appending) write(records []framework.Record) (err error) {
	if a.torn { // what was written before the error is not written again
		if err := a.recall(a.position); err != nil {
			return err
		}
		a.torn = false
	}
	a.buf = a.buf[:0]
	for i := range records {
		from := len(a.buf)
		if a.buf, err = appendLine(a.buf, &records[i]); err != nil {
			return fmt.Errorf("record %q: %w", records[i].ID, err)
		}
		if len(a.there) > 0 && a.known(a.buf[from:]) {
			a.buf = a.buf[:from]
		}
	}
	if len(a.buf) == 0 {
		return nil
	}
	a.torn = true
	if _, err := a.file.Write(a.buf); err != nil {
		return err
	}
	end, err := a.file.Seek(0, io.SeekCurrent) // others may have appended before
	if err != nil {
		return err
	}
	a.torn, a.position = false, end
	if cap(a.buf) > 1<<20 {
		a.buf = nil // one large call does not hold memory for good
	}
	return nil
}

// known tells whether a line is one of those that were found, and takes it off them.
func (a *appending) known(text []byte) bool {
	hash := sha256.Sum256(text)
	n := a.there[hash]
	if n > 1 {
		a.there[hash] = n - 1
	} else {
		delete(a.there, hash)
	}
	return n > 0
}
