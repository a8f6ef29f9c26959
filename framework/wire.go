package framework

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/millrace/millrace/internal/fields"
)

// Histories, outbox rows and the topics of transport/embedded keep records in one format. The body of a record is
//
//	flags           2 bytes, little endian: what follows
//	id              length (uvarint) and bytes, if set
//	type, source    the same, each if set
//	key             the same
//	time            seconds since 1970 (varint) and nanoseconds (uvarint), if set
//	causes, step    length and bytes of both, if one is set
//	metadata        a count (uvarint) and as many pairs of length and bytes, if set
//	value           the rest; none, if set
//
// A record by itself is a version byte and its body: an entry of a history, whose id, key and time are in the store's
// key, has three bytes before its type and value. Many records are a chunk: a version byte and, for each, the length of
// its body (4 bytes, little endian) and the body. In a chunk a record with flagSame has the type and source of
// the one before it. The length lets a reader skip records.
//
// Offset, Line, Err and Schema are not kept: they say where and how a record was found, not what it is.
const (
	wireVersion = 2
	lengthBytes = 4
	flagBytes   = 2

	flagID        = 1 << 0
	flagType      = 1 << 1
	flagSource    = 1 << 2
	flagKey       = 1 << 3
	flagTime      = 1 << 4
	flagMetadata  = 1 << 5
	flagWatermark = 1 << 6
	flagSame      = 1 << 7
	flagLineage   = 1 << 8
	flagNoValue   = 1 << 9
)

// ErrWire is returned when bytes that should hold records in Millrace's own format do not.
var ErrWire = errors.New("framework: damaged record")

// AppendRecord appends a record by itself in Millrace's own binary format.
func AppendRecord(dst []byte, r *Record) []byte {
	var w recordWriter
	return append(w.appendHead(append(dst, wireVersion), r, r.noValue()), r.Value...)
}

// appendRecordWith is AppendRecord with a value that is encoded in place.
func appendRecordWith(dst []byte, r *Record, value func([]byte) ([]byte, error)) ([]byte, error) {
	var w recordWriter
	return value(w.appendHead(append(dst, wireVersion), r, false))
}

// ReadRecord reads what AppendRecord appended, which is all of src. The record's Value and strings are of src's bytes,
// which must not be changed afterwards. Damaged bytes give an error that wraps ErrWire, never a panic or an
// allocation that they do not explain.
func ReadRecord(src []byte) (r Record, err error) {
	if err := checkVersion(src); err != nil {
		return Record{}, err
	}
	var d recordReading
	if len(src) < 1+flagBytes || !d.record(src[1:len(src):len(src)], &r) {
		return Record{}, ErrWire
	}
	return r, nil
}

// wireSize is about what a chunk of records takes, rather more than less.
func wireSize(records []Record) int {
	n := 1
	for i := range records {
		n += records[i].wireSize()
	}
	return n
}

func (r *Record) wireSize() int {
	n := 40 + len(r.ID) + len(r.Type) + len(r.Source) + len(r.Key) + len(r.Causes) + len(r.Step) + len(r.Value)
	if len(r.Metadata) > 0 {
		for k, v := range r.Metadata {
			n += len(k) + len(v) + 6
		}
	}
	return n
}

// recordWriter remembers the type and source of the record before.
type recordWriter struct {
	kind, source string
	begun        bool
}

// noValue tells whether the record is one without a value, as no watermark is.
func (r *Record) noValue() bool { return r.Value == nil && !r.Watermark }

// appendHead appends the body of a record up to its value; none: it has none.
func (w *recordWriter) appendHead(dst []byte, r *Record, none bool) []byte {
	at := len(dst)
	dst = append(dst, 0, 0)
	flags := uint16(0)
	if r.ID != "" {
		flags |= flagID
		dst = fields.AppendString(dst, r.ID)
	}
	if w.begun && r.Type == w.kind && r.Source == w.source {
		flags |= flagSame
	} else {
		w.kind, w.source, w.begun = r.Type, r.Source, true
		if r.Type != "" {
			flags |= flagType
			dst = fields.AppendString(dst, r.Type)
		}
		if r.Source != "" {
			flags |= flagSource
			dst = fields.AppendString(dst, r.Source)
		}
	}
	if r.Key != "" {
		flags |= flagKey
		dst = fields.AppendString(dst, r.Key)
	}
	if !r.Time.IsZero() {
		flags |= flagTime
		dst = binary.AppendVarint(dst, r.Time.Unix())
		dst = binary.AppendUvarint(dst, uint64(r.Time.Nanosecond()))
	}
	if r.Causes != "" || r.Step != "" {
		flags |= flagLineage
		dst = fields.AppendString(fields.AppendString(dst, r.Causes), r.Step)
	}
	if len(r.Metadata) > 0 {
		flags |= flagMetadata
		dst = binary.AppendUvarint(dst, uint64(len(r.Metadata)))
		for k, v := range r.Metadata {
			dst = fields.AppendString(fields.AppendString(dst, k), v)
		}
	}
	if r.Watermark {
		flags |= flagWatermark
	}
	if none {
		flags |= flagNoValue
	}
	binary.LittleEndian.PutUint16(dst[at:], flags)
	return dst
}

// recordReading remembers the type and source of the record before.
type recordReading struct {
	kind, source string
	begun        bool
}

// record takes a body apart; false when it does not hold what its flags say. The record is of the body's bytes.
func (d *recordReading) record(body []byte, r *Record) bool {
	flags := binary.LittleEndian.Uint16(body)
	w := fields.Reader{Rest: body[flagBytes:]}
	if flags&flagID != 0 {
		r.ID = w.String()
	}
	switch {
	case flags&flagSame == 0:
		d.kind, d.source = "", ""
		if flags&flagType != 0 {
			d.kind = w.String()
		}
		if flags&flagSource != 0 {
			d.source = w.String()
		}
	case !d.begun || flags&(flagType|flagSource) != 0:
		return false
	}
	d.begun = true
	r.Type, r.Source = d.kind, d.source
	if flags&flagKey != 0 {
		r.Key = w.String()
	}
	if flags&flagTime != 0 {
		seconds, nanoseconds := w.Varint(), w.Uvarint()
		if nanoseconds >= uint64(time.Second) {
			return false
		}
		r.Time = time.Unix(seconds, int64(nanoseconds)).UTC()
	}
	if flags&flagLineage != 0 {
		r.Causes, r.Step = w.String(), w.String()
	}
	if flags&flagMetadata != 0 {
		n := w.Uvarint()
		if n > uint64(len(w.Rest))/2 {
			return false
		}
		r.Metadata = make(map[string]string, min(n, 64)) // n is not to be trusted
		for ; n > 0 && !w.Failed; n-- {
			k := w.String()
			r.Metadata[k] = w.String()
		}
	}
	r.Watermark = flags&flagWatermark != 0
	if flags&flagNoValue != 0 {
		return !w.Failed && len(w.Rest) == 0
	}
	r.Value = w.Rest
	return !w.Failed
}
