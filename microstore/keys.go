package microstore

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
)

// The first byte of a key says whose it is, so that everything of one owner lies together.
//
//	00 'v'                                        format version
//	00 'c'                                        written by every commit
//	00 'd' task(4)                                a task whose slice is being dropped
//	00 'g'                                        for the flush before a garbage collection
//	01 kind name                                  id of a task, log or outbox by its name
//	02 name                                       named values
//	03 task(4) 00                                 the task's meta value
//	03 task(4) 01 kind name                       id of a history, table or list of processed ids by its name
//	03 task(4) 02 id(2) key match time(8) entry   history entry; key and match with their length(2) before them
//	03 task(4) 03 id(2) key                       table value
//	03 task(4) 04 time(8) step(4) key timer       timer
//	03 task(4) 05 id(2) shard(1)                  what no entry of a history's shard is later than
//	03 task(4) 06 id(2) number(8)                 chunk of processed ids: n hashes(16)
//	04 log(4) 00 base(8) count(4) times(3x8) size(4)   chunk of a log, packed
//	04 log(4) 01                                  where the log starts, written when it is trimmed
//	05 outbox(4) 00 seq(8)                        row of an outbox, packed
//	05 outbox(4) 01                               position
//	05 outbox(4) 02                               what every later sequence number is at or after
//
// Numbers are big endian, and times have their sign flipped, so that keys sort as their parts do.
const (
	spaceSystem byte = iota
	spaceNames
	spaceValues
	spaceTask
	spaceLog
	spaceOutbox
)

const (
	partMeta byte = iota
	partNames
	partHistory
	partTable
	partTimer
	partBound
	partProcessed
)

// maxKeyBytes is Badger's limit on the length of a key.
const maxKeyBytes = 65000

// maxNameBytes bounds the names of tasks, histories, logs ... which are part of keys.
const maxNameBytes = 1024

// Shards is the number of parts into which the keys of a task are divided.
const Shards = 64

// shardSeed is drawn at start: shards are never persisted as a function of a key, except as a bound that
// holds for all keys (see History), so they may differ from process to process.
var shardSeed = maphash.MakeSeed()

// Shard returns the shard of a key, 0 to 63: the same for the life of the process, not beyond. All calls
// for keys of one shard have to come from one goroutine at a time; different shards may run side by side.
func Shard(key string) int { return int(maphash.String(shardSeed, key) % Shards) }

func appendTime(dst []byte, t int64) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(t)^(1<<63))
}

func readTime(src []byte) int64 { return int64(binary.BigEndian.Uint64(src) ^ (1 << 63)) }

func appendPart(dst []byte, part string) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(part)))
	return append(dst, part...)
}

// readPart splits src into the length-prefixed part at its front and the rest.
func readPart(src []byte) (part, rest []byte, ok bool) {
	if len(src) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(src)) + 2
	if len(src) < n {
		return nil, nil, false
	}
	return src[2:n], src[n:], true
}

func checkName(kind, name string) error {
	if name == "" {
		return fmt.Errorf("microstore: a %s needs a name", kind)
	}
	if len(name) > maxNameBytes {
		return fmt.Errorf("%w: name of a %s has %d bytes, %d are possible", ErrKeyTooLong, kind, len(name), maxNameBytes)
	}
	return nil
}

// checkKey refuses parts that together would not fit into a key; 64 bytes are left for prefix and numbers.
func checkKey(what string, parts ...string) error {
	size := 64
	for _, part := range parts {
		size += len(part)
	}
	if size > maxKeyBytes {
		return fmt.Errorf("%w: %s takes %d bytes, %d are possible: use a hash of the value", ErrKeyTooLong, what, size, maxKeyBytes)
	}
	return nil
}
