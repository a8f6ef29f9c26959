package file

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/millrace/millrace/framework"
)

// CSVOption changes what CSV makes.
type CSVOption func(*csvOptions)

type csvOptions struct{ missing []string }

// NA says which texts mean a missing value, in all columns that have no na of their own: NA("NA", "").
func NA(texts ...string) CSVOption {
	return func(o *csvOptions) { o.missing = append(o.missing, texts...) }
}

// CSV is the codec of a CSV row and a struct. A field names its column in a tag:
//
//	type Flight struct {
//		Carrier   string    `csv:"carrier"`
//		Departed  *int      `csv:"dep_time,na=NA"`
//		Tail      string    `csv:"tailnum,na=NA"`
//		Gate      string    `csv:"gate,optional"`
//		Scheduled time.Time `csv:"time_hour"`
//	}
//
// Fields are strings, numbers, booleans, types with encoding.TextUnmarshaler such as time.Time (RFC
// 3339), or pointers to these; other fields, and those without a tag, are left alone. The fields of an
// embedded struct count as the struct's own.
//
// na=TEXT (which may be repeated) is a text that means "missing": the field stays zero, a pointer nil.
// For a pointer without na, missing is the empty text. Otherwise an empty text is the empty string, and
// an error for numbers. optional: the header may lack the column; without it that is a fatal error which
// names file and column.
//
// The header comes with the record (SchemaHeader). A row without one has the struct's columns in the
// struct's order, which is what Append writes. A value that reads like a missing one comes back as
// missing, and a carriage return before a newline is lost.
//
// Strings of the struct are parts of the record's value, not copies.
func CSV[T any](options ...CSVOption) framework.Codec[T] {
	c := &csvCodec[T]{}
	var o csvOptions
	for _, option := range options {
		option(&o)
	}
	c.fields, c.err = csvFields(reflect.TypeFor[T](), o)
	if c.err != nil {
		c.err = framework.Fatal(fmt.Errorf("file: csv: %w", c.err))
	}
	return c
}

type csvCodec[T any] struct {
	fields []csvField
	err    error
	plan   atomic.Pointer[csvPlan] // of the header seen last: a file has one
}

func (c *csvCodec[T]) Decode(r *framework.Record, v *T) error {
	if c.err != nil {
		return c.err
	}
	plan := c.plan.Load()
	header, comma := r.Schema[SchemaHeader], r.Schema[SchemaComma]
	if plan == nil || plan.header != header || plan.commaText != comma {
		plan = newCSVPlan(c.fields, header, comma, r.Schema[SchemaFile])
		c.plan.Store(plan)
	}
	if plan.err != nil {
		return plan.err
	}
	if err := plan.decode(r.Value, reflect.ValueOf(v).Elem()); err != nil {
		where := r.Schema[SchemaFile]
		if where == "" {
			where = "csv"
		}
		return framework.Permanent(fmt.Errorf("file: %s:%d: %w", where, r.Line, err))
	}
	return nil
}

func (c *csvCodec[T]) Append(dst []byte, v *T) ([]byte, error) {
	if c.err != nil {
		return dst, c.err
	}
	value := reflect.ValueOf(v).Elem()
	start := len(dst)
	for i := range c.fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = c.fields[i].append(dst, value); err != nil {
			return dst[:start], fmt.Errorf("file: csv: field %s: %w", c.fields[i].name, err)
		}
	}
	if len(dst) == start {
		dst = append(dst, `""`...) // or the row would be a blank line
	}
	return dst, nil
}

// csvPlan says which field each column of one header goes to.
type csvPlan struct {
	header, commaText string
	comma             byte
	columns           []*csvField // nil: nobody wants it
	last              int         // the last column that somebody wants
	err               error
}

func newCSVPlan(fields []csvField, header, comma, file string) *csvPlan {
	p := &csvPlan{header: header, commaText: comma, comma: ',', last: -1}
	if comma != "" {
		p.comma = comma[0]
	}
	if header == "" {
		for i := range fields {
			p.columns = append(p.columns, &fields[i])
		}
		p.last = len(fields) - 1
		return p
	}
	names, err := readRow(header, p.comma)
	if err != nil {
		p.err = framework.Fatal(fmt.Errorf("file: %s: header row: %w", file, err))
		return p
	}
	p.columns = make([]*csvField, len(names))
	var lacking []string
	for i := range fields {
		at := slices.Index(names, fields[i].name)
		switch {
		case at >= 0:
			p.columns[at] = &fields[i]
			p.last = max(p.last, at)
		case !fields[i].optional:
			lacking = append(lacking, fields[i].name)
		}
	}
	if len(lacking) > 0 {
		p.err = framework.Fatal(fmt.Errorf("file: %s has no column %q, it has %q: correct the struct's csv tags, or add"+
			" \",optional\"", file, lacking, names))
	}
	return p
}

func (p *csvPlan) decode(row []byte, value reflect.Value) error {
	rest := row
	for column := 0; column <= p.last; column++ {
		text, after, more, err := cutField(rest, p.comma)
		if err != nil {
			return fmt.Errorf("column %d: %w", column+1, err)
		}
		if final := column == len(p.columns)-1; more == final {
			return fmt.Errorf("%w: the header has %d", ErrColumns, len(p.columns))
		}
		rest = after
		if field := p.columns[column]; field != nil {
			if err := field.decode(text, value); err != nil {
				return fmt.Errorf("column %q: %w", field.name, err)
			}
		}
	}
	return nil
}

// cutField returns the first field of a row, unquoted, and what follows the comma. more: there was one.
func cutField(row []byte, comma byte) (text, rest []byte, more bool, err error) {
	if len(row) == 0 || row[0] != '"' {
		end := bytes.IndexByte(row, comma)
		if end < 0 {
			return row, nil, false, nil
		}
		return row[:end], row[end+1:], true, nil
	}
	body := row[1:]
	end := bytes.IndexByte(body, '"')
	if end < 0 {
		return nil, nil, false, ErrQuote
	}
	text, rest = body[:end], body[end+1:]
	if len(rest) > 0 && rest[0] == '"' {
		text = bytes.Clone(text)
		for len(rest) > 0 && rest[0] == '"' { // a doubled quote is a quote
			rest = rest[1:]
			if end = bytes.IndexByte(rest, '"'); end < 0 {
				return nil, nil, false, ErrQuote
			}
			text = append(append(text, '"'), rest[:end]...)
			rest = rest[end+1:]
		}
	}
	if bytes.IndexByte(text, '\r') >= 0 {
		text = bytes.ReplaceAll(text, []byte("\r\n"), newline) // as encoding/csv does
	}
	switch {
	case len(rest) == 0:
		return text, nil, false, nil
	case rest[0] == comma:
		return text, rest[1:], true, nil
	}
	return nil, nil, false, ErrQuote
}

// view is a string of bytes that nobody changes.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
