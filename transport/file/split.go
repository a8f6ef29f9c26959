package file

import (
	"bytes"
	"errors"
	"io"
)

// ErrTooLong is the Err of a record that is longer than Input.MaxRecordBytes.
var ErrTooLong = errors.New("record is longer than MaxRecordBytes")

// ErrColumns is the Err of a CSV row with more or fewer columns than the header.
var ErrColumns = errors.New("wrong number of columns")

// ErrQuote is the Err of a CSV row with a quote inside an unquoted field, text after a closing quote, or
// no closing quote.
var ErrQuote = errors.New("misplaced quote")

// prefixBytes is how much is kept of a record that is too long.
const prefixBytes = 4 << 10

// splitter cuts a stream into records. It holds at most one record and what one read brings.
//
// A line is a record; in CSV a row goes on over a newline inside quotes. Only a row with a quote in it is
// looked at byte by byte: the rest is a search for the newline and a count of the commas.
type splitter struct {
	source io.Reader
	follow bool // the end of the source may not be the end
	max    int

	csv     bool
	comma   byte
	columns int // that a CSV row must have; 0: any

	buf      []byte
	from, to int   // buf[from:to] is not consumed
	line     int64 // number of the line that starts at from
	offset   int64 // bytes consumed and buffered: the place in a plain file
	eof      bool
	begun    bool
	failed   error  // what the source said, once what it gave before is used up
	long     []byte // prefix of a record that is too long, while its rest is skipped
	longLine int64
}

// piece is one record. Its value is valid until the next call.
type piece struct {
	value []byte
	line  int64
	err   error
}

func newSplitter(source io.Reader, max int) *splitter {
	return &splitter{source: source, max: max, line: 1, buf: make([]byte, 64<<10)}
}

// next returns the next record. io.EOF: there is no more, or, when following, not yet.
func (s *splitter) next() (piece, error) {
	for {
		if s.long != nil {
			return s.skipLong()
		}
		if !s.begun && !s.begin() {
			if err := s.fill(); err != nil {
				return piece{}, err
			}
			continue
		}
		p, advance, ok := s.cut()
		if ok {
			p.line = s.line
			s.line += int64(bytes.Count(s.buf[s.from:s.from+advance], newline))
			s.from += advance
			if s.blank(p.value) {
				continue
			}
			return p, nil
		}
		if rest := s.to - s.from; rest > s.max+1 || rest > 0 && s.eof && !s.follow {
			s.long = bytes.Clone(s.buf[s.from : s.from+min(prefixBytes, s.max)])
			s.longLine = s.line
			continue
		}
		if s.eof {
			s.eof = !s.follow
			return piece{}, io.EOF
		}
		if err := s.fill(); err != nil {
			return piece{}, err
		}
	}
}

var newline = []byte{'\n'}

// cut finds the record at the start of the buffer and how far it reaches; not ok: more is needed.
func (s *splitter) cut() (p piece, advance int, ok bool) {
	data := s.buf[s.from:s.to]
	last := s.eof && !s.follow
	end := bytes.IndexByte(data, '\n')
	advance = end + 1
	if end < 0 {
		if !last || len(data) == 0 {
			return piece{}, 0, false
		}
		end, advance = len(data), len(data)
	}
	first := trimCR(data[:end])
	if len(first) > s.max {
		return piece{}, 0, false // next sees that it is too long
	}
	if !s.csv {
		return piece{value: first}, advance, true
	}
	if bytes.IndexByte(first, '"') < 0 {
		p = piece{value: first}
		if s.columns > 0 && bytes.Count(first, []byte{s.comma})+1 != s.columns {
			p.err = ErrColumns
		}
		return p, advance, true
	}
	columns, length, state := scanRow(data, s.comma, last)
	switch {
	case state == rowOpen && !last && len(data) <= s.max:
		return piece{}, 0, false
	case state != rowDone || length > s.max+1:
		return piece{value: first, err: ErrQuote}, advance, true
	}
	p = piece{value: trimCR(bytes.TrimSuffix(data[:length], newline))}
	if s.columns > 0 && columns != s.columns {
		p.err = ErrColumns
	}
	return p, length, true
}

type rowState int

const (
	rowDone rowState = iota
	rowOpen          // more is needed to know
	rowBad
)

// scanRow walks a row with quotes by the rules of encoding/csv and returns its columns and its length
// with the newline. last says that nothing comes after data.
func scanRow(data []byte, comma byte, last bool) (columns, length int, state rowState) {
	i := 0
	for {
		columns++
		if i < len(data) && data[i] == '"' {
			i++
			for { // inside quotes
				quote := bytes.IndexByte(data[i:], '"')
				if quote < 0 {
					return 0, 0, rowOpen
				}
				i += quote + 1
				if i < len(data) && data[i] == '"' {
					i++
					continue
				}
				break
			}
			switch rest := data[i:]; {
			case len(rest) == 0 || len(rest) == 1 && rest[0] == '\r':
				if !last {
					return 0, 0, rowOpen
				}
				return columns, len(data), rowDone
			case rest[0] == comma:
				i++
				continue
			case rest[0] == '\n':
				return columns, i + 1, rowDone
			case rest[0] == '\r' && rest[1] == '\n':
				return columns, i + 2, rowDone
			}
			return 0, 0, rowBad
		}
		for ; i < len(data) && data[i] != comma && data[i] != '\n'; i++ {
			if data[i] == '"' {
				return 0, 0, rowBad
			}
		}
		switch {
		case i == len(data) && !last:
			return 0, 0, rowOpen
		case i == len(data):
			return columns, i, rowDone
		case data[i] == '\n':
			return columns, i + 1, rowDone
		}
		i++
	}
}

// skipLong drops the rest of a line that is too long, without holding it.
func (s *splitter) skipLong() (piece, error) {
	for {
		end := bytes.IndexByte(s.buf[s.from:s.to], '\n')
		if end >= 0 || s.eof && !s.follow {
			if s.from += end + 1; end < 0 {
				s.from = s.to
			}
			p := piece{value: s.long, line: s.longLine, err: ErrTooLong}
			s.long = nil
			s.line++
			return p, nil
		}
		s.from = s.to
		if s.eof {
			s.eof = false
			return piece{}, io.EOF
		}
		if err := s.fill(); err != nil {
			return piece{}, err
		}
	}
}

// fill reads more, making room first. At the end of the source it sets eof. An error is given when what
// came before it is used up.
func (s *splitter) fill() error {
	if s.failed != nil {
		return s.failed
	}
	if s.from > 0 {
		s.to = copy(s.buf, s.buf[s.from:s.to])
		s.from = 0
	}
	if s.to == len(s.buf) {
		s.buf = append(s.buf, make([]byte, len(s.buf))...)
	}
	n, err := s.source.Read(s.buf[s.to:])
	s.to += n
	s.offset += int64(n)
	if errors.Is(err, io.EOF) {
		s.eof = true
		return nil
	}
	s.failed = err
	return nil
}

// begin skips a byte order mark; false when there is too little to know.
func (s *splitter) begin() bool {
	if s.to < 3 && !s.eof {
		return false
	}
	s.begun = true
	if bytes.HasPrefix(s.buf[:s.to], []byte("\xef\xbb\xbf")) {
		s.from = 3
	}
	return true
}

func (s *splitter) blank(value []byte) bool {
	if s.csv {
		return len(value) == 0
	}
	return len(bytes.TrimLeft(value, " \t\r")) == 0
}

func trimCR(line []byte) []byte {
	if n := len(line); n > 0 && line[n-1] == '\r' {
		return line[:n-1]
	}
	return line
}
