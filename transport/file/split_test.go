package file

import (
	"bytes"
	"encoding/csv"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func pieces(t testing.TB, s *splitter) []piece {
	t.Helper()
	var all []piece
	for {
		p, err := s.next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		p.value = bytes.Clone(p.value)
		all = append(all, p)
	}
}

func fields(t testing.TB, row []byte, comma byte) []string {
	t.Helper()
	var all []string
	for {
		text, rest, more, err := cutField(row, comma)
		if err != nil {
			t.Fatalf("%q: %v", row, err)
		}
		all = append(all, string(text))
		if !more {
			return all
		}
		row = rest
	}
}

// What encoding/csv reads, we read alike: the same rows with the same fields.
func FuzzCSV(f *testing.F) {
	for _, seed := range []string{
		"a,b\n1,2\n", "a,\"b\nc\"\r\n\r\n,\n", "\"a\"\"b\",\"\"\n\"\"\n", "a\r\n\"b\"\r", "\r", "a,b\rc\n", "\"\r\n\"\n", ",,\n\n\n,", "\"a\"b\n",
		"\ufeffx\n", "x\"y\n\"z\n", "\"x\n\n\n\"",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.HasPrefix(text, "\ufeff") {
			return // a byte order mark is text to encoding/csv
		}
		reader := csv.NewReader(strings.NewReader(text))
		reader.FieldsPerRecord = -1
		want, err := reader.ReadAll()
		for name, source := range map[string]io.Reader{
			"whole": strings.NewReader(text), "by bytes": iotest.OneByteReader(strings.NewReader(text)),
		} {
			s := newSplitter(source, 1<<20)
			s.csv, s.comma = true, ','
			got := pieces(t, s)
			lines := int64(0)
			for _, p := range got {
				if p.line <= lines {
					t.Fatalf("%s: %q: a record at line %d after one at line %d", name, text, p.line, lines)
				}
				lines = p.line
			}
			if err != nil {
				if !slices.ContainsFunc(got, func(p piece) bool { return p.err != nil }) {
					t.Fatalf("%s: %q: encoding/csv says %v, we say nothing", name, text, err)
				}
				continue
			}
			if len(got) != len(want) {
				t.Fatalf("%s: %q: %d rows, encoding/csv has %d", name, text, len(got), len(want))
			}
			for i, p := range got {
				if p.err != nil {
					t.Fatalf("%s: %q: row %d: %v", name, text, i, p.err)
				}
				if have := fields(t, p.value, ','); !slices.Equal(have, want[i]) {
					t.Fatalf("%s: %q: row %d is %q, encoding/csv has %q", name, text, i, have, want[i])
				}
			}
		}
	})
}

// Lines come whole and in order, whatever the bound and however the source gives them; only what is over
// the bound is cut.
func FuzzLines(f *testing.F) {
	f.Add("a\nbb\r\n\n  \nccc", uint8(2))
	f.Add("\ufeffa", uint8(1))
	f.Add("abcd\r\nef\r", uint8(3))
	f.Fuzz(func(t *testing.T, text string, bound uint8) {
		limit := int(bound)%50 + 1
		var want []piece
		for i, line := range strings.Split(strings.TrimPrefix(text, "\ufeff"), "\n") {
			line = string(trimCR([]byte(line)))
			p := piece{value: []byte(line), line: int64(i) + 1}
			if len(line) > limit {
				p.value, p.err = p.value[:limit], ErrTooLong
			} else if strings.TrimLeft(line, " \t\r") == "" {
				continue
			}
			want = append(want, p)
		}
		for name, source := range map[string]io.Reader{
			"whole": strings.NewReader(text), "by bytes": iotest.OneByteReader(strings.NewReader(text)),
			"with the end": iotest.DataErrReader(strings.NewReader(text)),
		} {
			got := pieces(t, newSplitter(source, limit))
			if !slices.EqualFunc(got, want, func(a, b piece) bool {
				return bytes.Equal(a.value, b.value) && a.line == b.line && errors.Is(a.err, b.err)
			}) {
				t.Fatalf("%s, bound %d: %q gives\n%+v\nexpected\n%+v", name, limit, text, got, want)
			}
		}
	})
}

// FuzzField checks that no row makes the field reader fail, loop or read beyond the row.
func FuzzField(f *testing.F) {
	f.Add([]byte(`a,"b ""c""",d`))
	f.Fuzz(func(_ *testing.T, row []byte) {
		for range len(row) + 1 {
			_, rest, more, err := cutField(row, ',')
			if err != nil || !more {
				return
			}
			row = rest
		}
		panic("more fields than bytes")
	})
}
