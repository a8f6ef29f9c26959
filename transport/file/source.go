package file

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/millrace/millrace/framework"
)

// Keys of the Record.Schema of a CSV file. CSV decodes by them, so a row can also be decoded elsewhere,
// such as after a stay in a dead-letter topic. All records of a file share one map.
const (
	// SchemaHeader is the header row of the file as it is.
	SchemaHeader = "csv_header"
	// SchemaComma is what separates columns, when it is not a comma.
	SchemaComma = "csv_comma"
	// SchemaFile is the base name of the file.
	SchemaFile = "csv_file"
)

// source is an open input, placed at its first record.
type source struct {
	input  Input
	origin string
	file   *os.File // nil for standard input
	closer io.Closer
	split  *splitter
	schema map[string]string
}

// origin names an input for people.
func (in Input) origin() string {
	if in.Path == Stdio {
		return "stdin"
	}
	return filepath.Base(in.Path)
}

// openSource opens an input and reads its header. read counts the bytes of the file that were read.
func openSource(in Input, stdin io.Reader, read *atomic.Int64) (*source, error) {
	s := &source{input: in, origin: in.origin()}
	raw := stdin
	if in.Path != Stdio {
		file, err := openRegular(in.Path)
		if err != nil {
			return nil, err
		}
		s.file, s.closer, raw = file, file, file
	}
	if err := s.begin(&counter{raw, read}); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func openRegular(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, describe(err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file: for a pipe use standard input, %q", path, Stdio)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, describe(err)
	}
	return file, nil
}

// describe adds what to do to the usual errors of opening a file.
func describe(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: check the path; a relative one starts at the working directory", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: let this user have it", err)
	}
	return err
}

func (s *source) begin(raw io.Reader) error {
	buffered := bufio.NewReaderSize(raw, 64<<10)
	unpacked := io.Reader(buffered)
	if magic, _ := buffered.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		if s.input.Follow {
			return fmt.Errorf("%s is compressed: only plain files can be followed", s.origin)
		}
		gz, err := gzip.NewReader(buffered)
		if err != nil {
			return fmt.Errorf("%s: unpack: %w", s.origin, err)
		}
		unpacked = gz
	}
	s.split = newSplitter(unpacked, s.input.MaxRecordBytes)
	s.split.follow = s.input.Follow
	if s.input.Format != CSVRows {
		return nil
	}
	s.split.csv, s.split.comma = true, s.input.Comma
	header, columns, err := s.header()
	if err != nil {
		return err
	}
	s.split.columns = len(columns)
	s.schema = map[string]string{SchemaHeader: header, SchemaFile: s.origin}
	if s.input.Comma != ',' {
		s.schema[SchemaComma] = string(s.input.Comma)
	}
	return nil
}

// header returns the header row, as text and as columns.
func (s *source) header() (string, []string, error) {
	if len(s.input.Columns) > 0 {
		row, err := writeRow(s.input.Columns, s.input.Comma)
		return row, s.input.Columns, err
	}
	p, err := s.split.next()
	if errors.Is(err, io.EOF) {
		return "", nil, fmt.Errorf("%s has no header row: it is empty; name the columns in its first line, or in Input.Columns", s.origin)
	}
	if err == nil {
		err = p.err
	}
	if err != nil {
		return "", nil, fmt.Errorf("%s: header row: %w", s.origin, err)
	}
	header := string(p.value)
	columns, err := readRow(header, s.input.Comma)
	if err != nil {
		return "", nil, fmt.Errorf("%s: header row: %w", s.origin, err)
	}
	if duplicate := firstDuplicate(columns); duplicate != "" {
		return "", nil, fmt.Errorf("%s: header row: column %q is there twice", s.origin, duplicate)
	}
	return header, columns, nil
}

func readRow(row string, comma byte) ([]string, error) {
	r := csv.NewReader(strings.NewReader(row))
	r.Comma = rune(comma)
	return r.Read()
}

func writeRow(fields []string, comma byte) (string, error) {
	var b strings.Builder
	w := csv.NewWriter(&b)
	w.Comma = rune(comma)
	if err := w.Write(fields); err != nil {
		return "", err
	}
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// next returns the next record without an offset; its value is valid until the next call.
func (s *source) next() (framework.Record, error) {
	p, err := s.split.next()
	if err != nil {
		return framework.Record{}, err
	}
	r := framework.Record{Value: p.value, Line: p.line, Schema: s.schema}
	if p.err != nil {
		r.Err = framework.Permanent(s.explain(p))
	}
	return r, nil
}

func (s *source) explain(p piece) error {
	switch {
	case errors.Is(p.err, ErrColumns):
		return fmt.Errorf("file: %s:%d: %w: the header has %d", s.origin, p.line, p.err, s.split.columns)
	case errors.Is(p.err, ErrTooLong):
		return fmt.Errorf("file: %s:%d: %w, %d; its first %d bytes are kept", s.origin, p.line, p.err, s.split.max, len(p.value))
	}
	return fmt.Errorf("file: %s:%d: %w", s.origin, p.line, p.err)
}

func (s *source) close() {
	if s.closer != nil {
		_ = s.closer.Close()
	}
}

// counter counts what is read.
type counter struct {
	io.Reader
	n *atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}
