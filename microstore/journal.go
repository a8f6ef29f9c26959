package microstore

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
)

const (
	journalHeader = 20 // number of the key and what encryption begins with
	finBit        = 1 << 7
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// memtableEntry is what an entry takes in a memtable beyond its bytes in the journal: a node, whose height is drawn and is
// one and a half on average.
const memtableEntry = 23

// journalRange returns the numbers of the first and the last complete commit of a journal, 0 for none, and how much
// memory its entries take in a memtable.
//
// An entry is: meta, user meta, length of key, length of value, expiry (the last three as varints), key,
// value, checksum of all that. The entry that ends a commit has finBit and the commit's number as its value.
func journalRange(data []byte) (first, last uint64, memory int64, err error) {
	if len(data) < journalHeader {
		if len(data) > 0 {
			return 0, 0, 0, fmt.Errorf("%d bytes are less than its header", len(data))
		}
		return 0, 0, 0, nil
	}
	for rest := data[journalHeader:]; ; {
		meta, value, size := journalEntry(rest)
		if size == 0 {
			return first, last, memory, nil
		}
		rest = rest[size:]
		memory += int64(size) + memtableEntry
		if meta&finBit == 0 {
			continue
		}
		commit, err := strconv.ParseUint(string(value), 10, 64)
		if err != nil {
			return first, last, memory, nil
		}
		if first == 0 {
			first = commit
		}
		last = commit
	}
}

// journalEntry reads one entry; size 0 means that there is no whole one.
func journalEntry(data []byte) (meta byte, value []byte, size int) {
	if len(data) < 2 {
		return 0, nil, 0
	}
	meta, at := data[0], 2
	var lengths [3]uint64 // key, value, expiry
	for i := range lengths {
		n := 0
		if lengths[i], n = binary.Uvarint(data[at:]); n <= 0 {
			return 0, nil, 0
		}
		at += n
	}
	room := uint64(len(data) - at)
	if lengths[0] == 0 || lengths[0] > room || lengths[1] > room || lengths[0]+lengths[1]+crc32.Size > room {
		return 0, nil, 0
	}
	key := at + int(lengths[0])
	end := key + int(lengths[1])
	if crc32.Checksum(data[:end], castagnoli) != binary.BigEndian.Uint32(data[end:]) {
		return 0, nil, 0
	}
	return meta, data[key:end], end + crc32.Size
}
