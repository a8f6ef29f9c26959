package file

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/millrace/millrace/framework"
)

// Publisher appends records to JSON Lines files: the value and a newline. Watermarks are left out.
// It implements framework.Publisher and framework.Resumer.
type Publisher struct {
	transport *Transport

	mu     sync.Mutex
	sinks  map[string]*sink
	closed bool
}

var _ interface {
	framework.Publisher
	framework.Resumer
} = (*Publisher)(nil)

// sink is an open output. It ends at position; what lies behind is torn and is cut off before the next
// write.
type sink struct {
	output   Output
	file     *os.File  // nil for standard output
	stdout   io.Writer // nil for a file
	position int64
	torn     bool
	buf      []byte
}

// Publish appends records with one write. A value that spans lines is put on one, as compact JSON.
func (p *Publisher) Publish(ctx context.Context, topic string, records []framework.Record) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("file: publish to %q: %w", topic, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s, err := p.sink(topic)
	if err == nil {
		err = s.write(records)
	}
	if err != nil {
		return fmt.Errorf("file: publish to %q: %w", topic, err)
	}
	return nil
}

// Resume cuts a file back to a position. Not ok: the file must be new or empty, or Output.Overwrite set.
func (p *Publisher) Resume(_ context.Context, topic string, position int64, ok bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, open := p.sinks[topic]; open {
		return fmt.Errorf("file: resume %q: it is being written already", topic)
	}
	if _, err := p.resume(topic, position, ok); err != nil {
		return fmt.Errorf("file: resume %q: %w", topic, err)
	}
	return nil
}

// Position is the length of the file after the last Publish; 0 for standard output.
func (p *Publisher) Position(topic string) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.sinks[topic]; s != nil && s.file != nil {
		return s.position
	}
	return 0
}

// Close closes the files. It may be called twice.
func (p *Publisher) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var faults []error
	for topic, s := range p.sinks {
		if s.file != nil {
			faults = append(faults, s.file.Close())
		}
		delete(p.sinks, topic)
	}
	return errors.Join(faults...)
}

// sink returns an open output; one that was not resumed is opened as a new one.
func (p *Publisher) sink(topic string) (*sink, error) {
	if s := p.sinks[topic]; s != nil {
		return s, nil
	}
	return p.resume(topic, 0, false)
}

func (p *Publisher) resume(topic string, position int64, ok bool) (*sink, error) {
	if p.closed {
		return nil, errors.New("publisher is closed")
	}
	output, known := p.transport.config.Outputs[topic]
	if !known {
		return nil, p.transport.unknown(topic)
	}
	s := &sink{output: output}
	if output.Path == Stdio {
		s.stdout = p.transport.config.Stdout
	} else if err := s.open(position, ok); err != nil {
		return nil, err
	}
	p.sinks[topic] = s
	return s, nil
}

func (s *sink) open(position int64, ok bool) error {
	if err := s.output.check(); err != nil {
		return err
	}
	file, err := os.OpenFile(s.output.Path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return describe(err)
	}
	if err := s.place(file, position, ok); err != nil {
		_ = file.Close()
		return err
	}
	s.file = file
	return nil
}

// place cuts the file to where writing goes on.
func (s *sink) place(file *os.File, position int64, ok bool) error {
	stat, err := file.Stat()
	if err != nil {
		return err
	}
	size := stat.Size()
	switch {
	case !ok && size > 0 && !s.output.Overwrite:
		return fmt.Errorf("%s has %d bytes that this pipeline has not written: move it away, or set Output.Overwrite",
			s.output.Path, size)
	case !ok:
		position = 0
	case position > size:
		return shorter(s.output.Path, size, position)
	}
	if position < size {
		if err := file.Truncate(position); err != nil {
			return err
		}
	}
	s.position = position
	return nil
}

// shorter is the error of a file that ends before the position that was committed.
func shorter(path string, size, position int64) error {
	return fmt.Errorf("%s has %d bytes, but %d were written and committed: the file was cut or deleted;"+
		" bring it back, or drop the pipeline's state to make it anew", path, size, position)
}

func (s *sink) write(records []framework.Record) error {
	s.buf = s.buf[:0]
	for i := range records {
		if records[i].Watermark {
			continue
		}
		if err := s.line(records[i].Value); err != nil {
			return fmt.Errorf("record %q: %w", records[i].ID, err)
		}
	}
	if len(s.buf) == 0 {
		return nil
	}
	if s.file == nil {
		_, err := s.stdout.Write(s.buf)
		return err
	}
	if s.torn {
		if err := s.file.Truncate(s.position); err != nil {
			return err
		}
	}
	s.torn = true
	if _, err := s.file.WriteAt(s.buf, s.position); err != nil {
		return err
	}
	if s.output.Sync {
		if err := s.file.Sync(); err != nil {
			return err
		}
	}
	s.torn = false
	s.position += int64(len(s.buf))
	if cap(s.buf) > 1<<20 {
		s.buf = nil // one large call does not hold memory for good
	}
	return nil
}

func (s *sink) line(value []byte) error {
	if value == nil {
		return framework.Permanent(errors.New("it has no value, which no line can say"))
	}
	if bytes.IndexByte(value, '\n') < 0 {
		s.buf = append(append(s.buf, value...), '\n')
		return nil
	}
	b := bytes.NewBuffer(s.buf)
	if err := json.Compact(b, value); err != nil {
		return framework.Permanent(fmt.Errorf("it spans lines and is no JSON that could be put on one: %w", err))
	}
	b.WriteByte('\n')
	s.buf = b.Bytes()
	return nil
}
