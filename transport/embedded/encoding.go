package embedded

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
)

// A chunk is a version byte and records. A record is the length of its body (4 bytes, little endian) and
// the body:
//
//	flags    2 bytes, little endian, what follows
//	id, type, source, key   each a length (uvarint) and bytes, if its flag is set
//	time     seconds since 1970 (varint) and nanoseconds (uvarint), if set
//	causes, step   each a length and bytes, if their flag is set
//	metadata a count (uvarint) and as many pairs of length and bytes, if set
//	value    the rest
//
// A record with flagSame has the type and source of the one before it. The length lets a reader skip
// records, and copy one without looking into it.
const (
	encodingVersion = 1
	lengthBytes     = 4

	flagID        = 1 << 0
	flagType      = 1 << 1
	flagSource    = 1 << 2
	flagKey       = 1 << 3
	flagTime      = 1 << 4
	flagMetadata  = 1 << 5
	flagWatermark = 1 << 6
	flagSame      = 1 << 7
	flagLineage   = 1 << 8

	flagBytes = 2
)

// encode makes the data of a chunk, of the records that picked names. Err, Line and Offset of a record are
// not kept.
func encode(records []framework.Record, picked []int32) []byte {
	dst := make([]byte, 0, encodedBound(records, picked))
	dst = append(dst, encodingVersion)
	var kind, source string
	for i, index := range picked {
		r := &records[index]
		at := len(dst)
		dst = append(dst, 0, 0, 0, 0, 0, 0)
		flags := uint16(0)
		if r.ID != "" {
			flags |= flagID
			dst = appendText(dst, r.ID)
		}
		switch {
		case i > 0 && r.Type == kind && r.Source == source:
			flags |= flagSame
		default:
			if kind = r.Type; kind != "" {
				flags |= flagType
				dst = appendText(dst, kind)
			}
			if source = r.Source; source != "" {
				flags |= flagSource
				dst = appendText(dst, source)
			}
		}
		if r.Key != "" {
			flags |= flagKey
			dst = appendText(dst, r.Key)
		}
		if !r.Time.IsZero() {
			flags |= flagTime
			dst = binary.AppendVarint(dst, r.Time.Unix())
			dst = binary.AppendUvarint(dst, uint64(r.Time.Nanosecond()))
		}
		if r.Causes != "" || r.Step != "" {
			flags |= flagLineage
			dst = appendText(appendText(dst, r.Causes), r.Step)
		}
		if len(r.Metadata) > 0 {
			flags |= flagMetadata
			dst = binary.AppendUvarint(dst, uint64(len(r.Metadata)))
			for k, v := range r.Metadata {
				dst = appendText(appendText(dst, k), v)
			}
		}
		if r.Watermark {
			flags |= flagWatermark
		}
		dst = append(dst, r.Value...)
		binary.LittleEndian.PutUint32(dst[at:], uint32(len(dst)-at-lengthBytes))
		binary.LittleEndian.PutUint16(dst[at+lengthBytes:], flags)
	}
	return dst
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// encodedBound is about what encode needs, so that it allocates once.
func encodedBound(records []framework.Record, picked []int32) int {
	n := 1
	for _, index := range picked {
		r := &records[index]
		n += 40 + len(r.Causes) + len(r.Step) + len(r.ID) + len(r.Key) + len(r.Type) + len(r.Source) + len(r.Value) + 64*len(r.Metadata)
	}
	return n
}

// ErrDamaged is wrapped by what a reader returns for a chunk that cannot be decoded.
var ErrDamaged = errors.New("chunk is damaged")

// slabBytes is how large the pieces are that decoded records lie in: a record that is kept keeps one of
// them, not the chunk.
const slabBytes = 4 << 10

// decode appends the records of a chunk from an offset on to dst. They do not refer to the chunk's data.
func decode(dst []framework.Record, chunk *microstore.Chunk, from int64) ([]framework.Record, error) {
	damaged := func(format string, args ...any) error {
		return fmt.Errorf("%w: at offset %d of chunk %d to %d: %s", ErrDamaged, from, chunk.Base, chunk.End()-1,
			fmt.Sprintf(format, args...))
	}
	data := chunk.Data
	if len(data) == 0 || data[0] != encodingVersion {
		return dst, damaged("the encoding is not of version %d", encodingVersion)
	}
	data = data[1:]
	var d decoder
	for offset := chunk.Base; offset < chunk.End(); offset++ {
		if len(data) < lengthBytes {
			return dst, damaged("record %d is missing", offset)
		}
		n := binary.LittleEndian.Uint32(data)
		if data = data[lengthBytes:]; n < flagBytes || uint64(n) > uint64(len(data)) {
			return dst, damaged("record %d has a length of %d, there are %d bytes", offset, n, len(data))
		}
		body := data[:n]
		wanted := offset >= from
		if !wanted && binary.LittleEndian.Uint16(body)&flagSame != 0 {
			data = data[n:]
			continue // it holds nothing that later records need
		}
		body = d.keep(body, len(data))
		data = data[n:]
		dst = append(dst, framework.Record{})
		r := &dst[len(dst)-1]
		r.Offset = offset
		if !d.record(body, r) {
			return dst[:len(dst)-1], damaged("record %d does not fit its length", offset)
		}
		if !wanted {
			dst = dst[:len(dst)-1]
		}
	}
	if len(data) > 0 {
		return dst, damaged("%d bytes are left over", len(data))
	}
	return dst, nil
}

type decoder struct {
	slab         []byte
	kind, source string
	begun        bool
}

// keep copies a body to where it can stay; rest is how much of the chunk is not copied yet.
func (d *decoder) keep(body []byte, rest int) []byte {
	n := len(body)
	if n > slabBytes/4 {
		return bytes.Clone(body)
	}
	if cap(d.slab)-len(d.slab) < n {
		d.slab = make([]byte, 0, min(slabBytes, rest))
	}
	at := len(d.slab)
	d.slab = append(d.slab, body...)
	return d.slab[at : at+n : at+n]
}

// record takes a body apart; false when it does not hold what its flags say.
func (d *decoder) record(body []byte, r *framework.Record) bool {
	flags := binary.LittleEndian.Uint16(body)
	c := cursor{rest: body[flagBytes:]}
	if flags&flagID != 0 {
		r.ID = c.text()
	}
	switch {
	case flags&flagSame == 0:
		d.kind, d.source = "", ""
		if flags&flagType != 0 {
			d.kind = c.text()
		}
		if flags&flagSource != 0 {
			d.source = c.text()
		}
	case !d.begun || flags&(flagType|flagSource) != 0:
		return false
	}
	d.begun = true
	r.Type, r.Source = d.kind, d.source
	if flags&flagKey != 0 {
		r.Key = c.text()
	}
	if flags&flagTime != 0 {
		seconds, nanoseconds := c.varint(), c.uvarint()
		if nanoseconds >= uint64(time.Second) {
			return false
		}
		r.Time = time.Unix(seconds, int64(nanoseconds)).UTC()
	}
	if flags&flagLineage != 0 {
		r.Causes, r.Step = c.text(), c.text()
	}
	if flags&flagMetadata != 0 {
		n := c.uvarint()
		if n > uint64(len(c.rest))/2 {
			return false
		}
		r.Metadata = make(map[string]string, n)
		for range n {
			k := c.text()
			r.Metadata[k] = c.text()
		}
	}
	r.Watermark = flags&flagWatermark != 0
	if len(c.rest) > 0 {
		r.Value = c.rest
	}
	return !c.failed
}

// cursor reads fields; once one does not fit it is failed and gives zero values.
type cursor struct {
	rest   []byte
	failed bool
}

func (c *cursor) uvarint() uint64 {
	if len(c.rest) > 0 && c.rest[0] < 0x80 {
		v := uint64(c.rest[0])
		c.rest = c.rest[1:]
		return v
	}
	v, n := binary.Uvarint(c.rest)
	if n <= 0 {
		c.failed, c.rest = true, nil
		return 0
	}
	c.rest = c.rest[n:]
	return v
}

func (c *cursor) varint() int64 {
	v := c.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

func (c *cursor) text() string {
	n := c.uvarint()
	if n > uint64(len(c.rest)) {
		c.failed, c.rest = true, nil
		return ""
	}
	text := unsafe.String(unsafe.SliceData(c.rest), int(n)) // of a slab that nobody changes
	c.rest = c.rest[n:]
	return text
}
