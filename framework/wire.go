package framework

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// ErrWire is returned when bytes that should hold a record in Millrace's own format do not.
var ErrWire = errors.New("framework: damaged record")

const (
	wireVersion   = 1
	wireTime      = 1 << 0
	wireMetadata  = 1 << 1
	wireWatermark = 1 << 2
	wireLineage   = 1 << 3
)

// AppendRecord appends a record in Millrace's own binary format, which histories, outbox rows and
// embedded topics share:
//
//	version, flags | ID, Type, Source, Key | [seconds, nanoseconds] | [Causes, Step] | [n, n × (key, value)] | Value
//
// where strings and bytes follow their length. Offset, Line and Err are not part of it: they say where a
// record was found, not what it is.
func AppendRecord(dst []byte, r *Record) []byte {
	dst = appendRecordHead(dst, r)
	dst = binary.AppendUvarint(dst, uint64(len(r.Value)))
	return append(dst, r.Value...)
}

// wireSize is about what AppendRecord needs for records, rather more than less.
func wireSize(records []Record) int {
	n := 0
	for i := range records {
		r := &records[i]
		n += 40 + len(r.ID) + len(r.Type) + len(r.Source) + len(r.Key) + len(r.Causes) + len(r.Step) + len(r.Value)
		for k, v := range r.Metadata {
			n += len(k) + len(v) + 6
		}
	}
	return n
}

// appendRecordWith is AppendRecord with a value that is encoded in place, behind a length of fixed width.
func appendRecordWith(dst []byte, r *Record, value func([]byte) ([]byte, error)) ([]byte, error) {
	const width = 4 // 28 bits: 256 MiB
	dst = appendRecordHead(dst, r)
	at := len(dst)
	dst, err := value(append(dst, 0, 0, 0, 0))
	if err != nil {
		return nil, err
	}
	n := len(dst) - at - width
	if n >= 1<<28 {
		return nil, fmt.Errorf("framework: value of %d bytes; at most %d fit", n, 1<<28-1)
	}
	for i := range width {
		dst[at+i] = byte(n>>(7*i)) | 0x80
	}
	dst[at+width-1] &^= 0x80
	return dst, nil
}

func appendRecordHead(dst []byte, r *Record) []byte {
	flags := byte(0)
	if !r.Time.IsZero() {
		flags |= wireTime
	}
	if len(r.Metadata) > 0 {
		flags |= wireMetadata
	}
	if r.Watermark {
		flags |= wireWatermark
	}
	if r.Causes != "" || r.Step != "" {
		flags |= wireLineage
	}
	dst = append(dst, wireVersion, flags)
	dst = appendString(dst, r.ID)
	dst = appendString(dst, r.Type)
	dst = appendString(dst, r.Source)
	dst = appendString(dst, r.Key)
	if flags&wireTime != 0 {
		dst = binary.AppendVarint(dst, r.Time.Unix())
		dst = binary.AppendUvarint(dst, uint64(r.Time.Nanosecond()))
	}
	if flags&wireLineage != 0 {
		dst = appendString(dst, r.Causes)
		dst = appendString(dst, r.Step)
	}
	if flags&wireMetadata != 0 {
		dst = binary.AppendUvarint(dst, uint64(len(r.Metadata)))
		for k, v := range r.Metadata {
			dst = appendString(dst, k)
			dst = appendString(dst, v)
		}
	}
	return dst
}

// ReadRecord reads one record from the front of src and returns what follows it. The record's Value and
// strings are of src's bytes or copies; src must not be changed afterwards. Damaged bytes give an error
// that wraps ErrWire, never a panic or an allocation larger than src.
func ReadRecord(src []byte) (r Record, rest []byte, err error) {
	w := wire{src: src}
	version, flags := w.byte(), w.byte()
	if w.err == nil && version != wireVersion {
		return Record{}, nil, fmt.Errorf("%w: format %d, this release reads %d", ErrWire, version, wireVersion)
	}
	r.ID, r.Type, r.Source, r.Key = w.string(), w.string(), w.string(), w.string()
	if flags&wireTime != 0 {
		sec, nsec := w.varint(), w.uvarint()
		if nsec >= 1e9 {
			w.fail()
		}
		r.Time = time.Unix(sec, int64(nsec)).UTC()
	}
	if flags&wireLineage != 0 {
		r.Causes, r.Step = w.string(), w.string()
	}
	if flags&wireMetadata != 0 {
		n := w.uvarint()
		if n > uint64(len(w.src)) {
			w.fail()
			n = 0
		}
		r.Metadata = make(map[string]string, min(n, 64)) // n is not to be trusted
		for ; n > 0 && w.err == nil; n-- {
			k := w.string()
			r.Metadata[k] = w.string()
		}
	}
	r.Watermark = flags&wireWatermark != 0
	r.Value = w.bytes()
	if w.err != nil {
		return Record{}, nil, w.err
	}
	return r, w.src, nil
}

// wire reads fields and remembers the first fault.
type wire struct {
	src []byte
	err error
}

func (w *wire) fail() {
	if w.err == nil {
		w.err = ErrWire
	}
	w.src = nil
}

func (w *wire) byte() byte {
	if len(w.src) == 0 {
		w.fail()
		return 0
	}
	b := w.src[0]
	w.src = w.src[1:]
	return b
}

func (w *wire) uvarint() uint64 {
	v, n := binary.Uvarint(w.src)
	if n <= 0 {
		w.fail()
		return 0
	}
	w.src = w.src[n:]
	return v
}

func (w *wire) varint() int64 {
	v, n := binary.Varint(w.src)
	if n <= 0 {
		w.fail()
		return 0
	}
	w.src = w.src[n:]
	return v
}

func (w *wire) bytes() []byte {
	n := w.uvarint()
	if n > uint64(len(w.src)) {
		w.fail()
		return nil
	}
	b := w.src[:n:n]
	w.src = w.src[n:]
	return b
}

func (w *wire) string() string { return string(w.bytes()) }

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}
