package pgtail

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/millrace/millrace/outbox"
)

// message is a message of the plugin pgoutput, protocol version 1, of which only what is read here is told apart.
type message struct {
	kind   byte
	xid    uint32         // of a begin
	commit uint64         // of a commit: the end of the transaction in the log
	row    *outbox.LogRow // of an insert into the table, or an event that is in the log only
}

// columns are those of the table that are read, by their names.
var columns = map[string]func(row *outbox.LogRow, value []byte) error{
	"id": func(row *outbox.LogRow, v []byte) (err error) {
		row.ID, err = strconv.ParseInt(string(v), 10, 64)
		return err
	},
	"slot":       func(row *outbox.LogRow, v []byte) (err error) { row.Slot, err = strconv.Atoi(string(v)); return err },
	"topic":      func(row *outbox.LogRow, v []byte) error { row.Topic = string(v); return nil },
	"event_key":  func(row *outbox.LogRow, v []byte) error { b, err := fromHex(v); row.Record.Key = string(b); return err },
	"event_id":   func(row *outbox.LogRow, v []byte) error { row.Record.ID = string(v); return nil },
	"event_type": func(row *outbox.LogRow, v []byte) error { row.Record.Type = string(v); return nil },
	"source":     func(row *outbox.LogRow, v []byte) error { row.Record.Source = string(v); return nil },
	"event_time": func(row *outbox.LogRow, v []byte) error { row.Time = string(v); return nil },
	"metadata":   func(row *outbox.LogRow, v []byte) error { row.Metadata = string(v); return nil },
	"payload":    func(row *outbox.LogRow, v []byte) (err error) { row.Record.Value, err = fromHex(v); return err },
}

// fromHex reads bytes as the server writes them with bytea_output = hex. It never returns nil without an error.
func fromHex(v []byte) ([]byte, error) {
	if len(v) < 2 || v[0] != '\\' || v[1] != 'x' {
		return nil, fmt.Errorf("%.20q is not hexadecimal", v)
	}
	decoded := make([]byte, (len(v)-2)/2)
	_, err := hex.Decode(decoded, v[2:])
	return decoded, err
}

// setter takes a column's value into a row; nil for a column that is not read.
type setter func(*outbox.LogRow, []byte) error

// decoder knows the columns of the tables that the stream has described.
type decoder struct {
	prefix string // of the messages that are events
	tables map[uint32][]setter
}

// decode reads a message. What it returns keeps nothing of data.
func (d *decoder) decode(data []byte) (m message, err error) {
	if len(data) == 0 {
		return m, errors.New("an empty message")
	}
	m.kind = data[0]
	r := &bytesReader{rest: data[1:]}
	switch m.kind {
	case 'B': // the commit's place, its time, the transaction's number
		r.uint64()
		r.uint64()
		m.xid = r.uint32()
	case 'C': // flags, the commit's place, its end, its time
		r.take(1)
		r.uint64()
		m.commit = r.uint64()
	case 'R':
		d.relation(r)
	case 'I':
		m.row, err = d.insert(r)
	case 'M':
		m.row, err = d.message(r)
	}
	if r.short {
		err = errors.New("it is cut off")
	}
	if err != nil {
		return m, fmt.Errorf("message %q of the log: %w", m.kind, err)
	}
	return m, nil
}

// relation learns where the columns are.
func (d *decoder) relation(r *bytesReader) {
	id := r.uint32()
	r.text() // schema
	r.text() // table
	r.take(1)
	setters := make([]setter, r.uint16())
	for i := range setters {
		r.take(1)
		setters[i] = columns[r.text()]
		r.uint32()
		r.uint32()
	}
	if d.tables == nil {
		d.tables = map[uint32][]setter{}
	}
	d.tables[id] = setters
}

func (d *decoder) insert(r *bytesReader) (*outbox.LogRow, error) {
	setters, ok := d.tables[r.uint32()]
	if !ok {
		return nil, errors.New("of a table that was not described")
	}
	r.take(1) // 'N': a new row
	if n := int(r.uint16()); n != len(setters) {
		return nil, fmt.Errorf("%d columns, not %d", n, len(setters))
	}
	row := new(outbox.LogRow)
	for _, set := range setters {
		var value []byte
		switch kind := r.byte(); kind {
		case 'n':
			continue
		case 't':
			value = r.take(int(r.uint32()))
		default:
			return nil, fmt.Errorf("a value of kind %q", kind)
		}
		if r.short || set == nil {
			continue
		}
		if err := set(row, value); err != nil {
			return nil, err
		}
	}
	if row.ID == 0 && !r.short {
		return nil, errors.New("no column id: is the publication of the outbox's table?")
	}
	return row, nil
}

// message reads an event that is in the log only; nil where it is none. Its number is its place.
func (d *decoder) message(r *bytesReader) (*outbox.LogRow, error) {
	transactional := r.byte() == 1
	place := r.uint64()
	prefix := r.text()
	content := r.take(int(r.uint32()))
	if r.short || !transactional || prefix != d.prefix {
		return nil, nil
	}
	row, err := decodeMessage(content)
	if err != nil {
		return nil, err
	}
	row.ID = -int64(place)
	return row, nil
}

// bytesReader takes what is asked for, and remembers when there was too little.
type bytesReader struct {
	rest  []byte
	short bool
}

func (r *bytesReader) take(n int) []byte {
	if n < 0 || n > len(r.rest) {
		r.short, r.rest = true, nil
		return nil
	}
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *bytesReader) byte() (v byte) {
	if b := r.take(1); b != nil {
		v = b[0]
	}
	return v
}

func (r *bytesReader) uint16() (v uint16) {
	if b := r.take(2); b != nil {
		v = binary.BigEndian.Uint16(b)
	}
	return v
}

func (r *bytesReader) uint32() (v uint32) {
	if b := r.take(4); b != nil {
		v = binary.BigEndian.Uint32(b)
	}
	return v
}

func (r *bytesReader) uint64() (v uint64) {
	if b := r.take(8); b != nil {
		v = binary.BigEndian.Uint64(b)
	}
	return v
}

// text is ended by a zero byte.
func (r *bytesReader) text() string {
	for i, c := range r.rest {
		if c == 0 {
			return string(r.take(i + 1)[:i])
		}
	}
	r.take(-1)
	return ""
}
