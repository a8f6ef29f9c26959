package microstore

import (
	"errors"
	"sync"

	"github.com/klauspost/compress/s2"
)

// Chunks of logs and rows of outboxes hold many records that look alike, so they are packed with S2: what costs a
// quarter of a microsecond a record saves more than that in pages of the file that are not touched. The first byte of
// such a value says how it is packed. Entries of histories and values of tables are small and are kept as they are.
const (
	packedNot byte = iota
	packedS2
)

// packFrom is the size from which packing is tried.
const packFrom = 512

// packRoom holds what a value is packed into before it is known how long it is.
var packRoom = sync.Pool{New: func() any { return new([]byte) }}

// pack returns data as it is kept, in an empty slice that space gives for so many bytes. It does not keep data itself.
func pack(data []byte, space func(n int) []byte) []byte {
	if len(data) >= packFrom {
		room := packRoom.Get().(*[]byte)
		defer packRoom.Put(room)
		if n := s2.MaxEncodedLen(len(data)); cap(*room) < n {
			*room = make([]byte, n)
		}
		if short := s2.Encode((*room)[:cap(*room)], data); len(short) < len(data)-len(data)/8 {
			return append(append(space(1+len(short)), packedS2), short...)
		}
	}
	return append(append(space(1+len(data)), packedNot), data...)
}

// apart is space for what is in no batch.
func apart(n int) []byte { return make([]byte, 0, n) }

var errPacked = errors.New("a packed value is damaged")

// unpack returns the data of a value that pack made; it may lie in the value.
func unpack(value []byte) ([]byte, error) {
	switch {
	case len(value) > 0 && value[0] == packedNot:
		return value[1:], nil
	case len(value) > 0 && value[0] == packedS2:
		if data, err := s2.Decode(nil, value[1:]); err == nil {
			return data, nil
		}
	}
	return nil, readError(errPacked)
}
