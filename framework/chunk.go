package framework

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// AppendRecords appends a chunk of records in Millrace's own binary format: of those that picked names by their
// indexes, or of all when it is nil.
func AppendRecords(dst []byte, records []Record, picked []int32) []byte {
	var w recordWriter
	if picked == nil {
		dst = append(slices.Grow(dst, wireSize(records)), wireVersion)
		for i := range records {
			dst = w.appendRecord(dst, &records[i])
		}
		return dst
	}
	size := 1
	for _, i := range picked {
		size += records[i].wireSize()
	}
	dst = append(slices.Grow(dst, size), wireVersion)
	for _, i := range picked {
		dst = w.appendRecord(dst, &records[i])
	}
	return dst
}

func (w *recordWriter) appendRecord(dst []byte, r *Record) []byte {
	at := len(dst)
	dst = append(w.appendHead(append(dst, 0, 0, 0, 0), r, r.noValue()), r.Value...)
	binary.LittleEndian.PutUint32(dst[at:], uint32(len(dst)-at-lengthBytes))
	return dst
}

// ReadRecords appends the records of a chunk to dst. Their offsets count from first, and those before from are left out;
// end is the offset after the last. They do not refer to data. Damaged bytes give an error that wraps ErrWire, never a
// panic or an allocation that they do not explain.
func ReadRecords(dst []Record, data []byte, first, from int64) (all []Record, end int64, err error) {
	if err := checkVersion(data); err != nil {
		return dst, first, err
	}
	var d recordReading
	var kept slab
	offset := first
	for data = data[1:]; len(data) > 0; offset++ {
		if len(data) < lengthBytes {
			return dst, offset, fmt.Errorf("%w: %d bytes are left over at record %d", ErrWire, len(data), offset)
		}
		n := binary.LittleEndian.Uint32(data)
		if data = data[lengthBytes:]; n < flagBytes || uint64(n) > uint64(len(data)) {
			return dst, offset, fmt.Errorf("%w: record %d has a length of %d, there are %d bytes", ErrWire, offset, n, len(data))
		}
		body := data[:n]
		wanted := offset >= from
		if !wanted && binary.LittleEndian.Uint16(body)&flagSame != 0 {
			data = data[n:]
			continue // it holds nothing that later records need
		}
		body = kept.keep(body, len(data))
		data = data[n:]
		dst = append(dst, Record{})
		r := &dst[len(dst)-1]
		r.Offset = offset
		if !d.record(body, r) {
			return dst[:len(dst)-1], offset, fmt.Errorf("%w: record %d does not fit its length", ErrWire, offset)
		}
		if !wanted {
			dst = dst[:len(dst)-1]
		}
	}
	return dst, offset, nil
}

func checkVersion(data []byte) error {
	if len(data) == 0 {
		return fmt.Errorf("%w: there are no bytes", ErrWire)
	}
	if data[0] != wireVersion {
		return fmt.Errorf("%w: it is of format %d, this release reads %d", ErrWire, data[0], wireVersion)
	}
	return nil
}

// slabBytes is how large the pieces are that decoded records lie in: a record that is kept keeps one of them, not the
// chunk.
const slabBytes = 4 << 10

type slab struct{ bytes []byte }

// keep copies a body to where it can stay; rest is how much of the chunk is not copied yet.
func (s *slab) keep(body []byte, rest int) []byte {
	n := len(body)
	if n > slabBytes/4 {
		return bytes.Clone(body)
	}
	if cap(s.bytes)-len(s.bytes) < n {
		s.bytes = make([]byte, 0, min(slabBytes, rest))
	}
	at := len(s.bytes)
	s.bytes = append(s.bytes, body...)
	return s.bytes[at : at+n : at+n]
}
