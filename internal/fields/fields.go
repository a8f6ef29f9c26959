// Package fields reads the fields of Millrace's binary formats: bytes, numbers as encoding/binary's varints, and strings
// that are led by their length.
package fields

import (
	"encoding/binary"
	"unsafe"
)

// Reader reads fields from the front of Rest. Once one does not fit it has Failed, and gives zero values. It allocates
// nothing: strings and bytes are of what is read, which must not be changed while they are used.
type Reader struct {
	Rest   []byte
	Failed bool
}

func (r *Reader) fail() { r.Failed, r.Rest = true, nil }

// Byte reads a byte.
func (r *Reader) Byte() byte {
	if len(r.Rest) == 0 {
		r.Failed = true
		return 0
	}
	b := r.Rest[0]
	r.Rest = r.Rest[1:]
	return b
}

// Uvarint reads a number.
func (r *Reader) Uvarint() uint64 {
	if len(r.Rest) > 0 && r.Rest[0] < 0x80 {
		v := uint64(r.Rest[0])
		r.Rest = r.Rest[1:]
		return v
	}
	v, n := binary.Uvarint(r.Rest)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.Rest = r.Rest[n:]
	return v
}

// Varint reads a number that may be negative.
func (r *Reader) Varint() int64 {
	v := r.Uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

// Bytes reads a length and as many bytes.
func (r *Reader) Bytes() []byte {
	n := r.Uvarint()
	if n > uint64(len(r.Rest)) {
		r.fail()
		return nil
	}
	b := r.Rest[:n]
	r.Rest = r.Rest[n:]
	return b
}

// String reads a length and a string of as many bytes.
func (r *Reader) String() string {
	b := r.Bytes()
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// AppendString appends what String reads.
func AppendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}
