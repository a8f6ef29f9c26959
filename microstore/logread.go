package microstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// TrimmedError is the ErrTrimmed of a Read before the start of a log.
type TrimmedError struct {
	Log           string
	Offset, Start int64
}

func (e *TrimmedError) Error() string {
	return fmt.Sprintf("%v: log %s, offset %d, start %d: go on from the start, or rebuild what needs the rest",
		ErrTrimmed, e.Log, e.Offset, e.Start)
}

// Unwrap makes errors.Is(err, ErrTrimmed) true.
func (e *TrimmedError) Unwrap() error { return ErrTrimmed }

// Read returns chunks from the one that contains offset on, until their data exceeds maxBytes: at least one,
// unless offset is End or later, when there is none. Recent chunks come from memory. Do not change the data.
func (l *Log) Read(offset int64, maxBytes int) ([]Chunk, error) {
	l.mu.Lock()
	start, end := l.start, l.end
	if offset >= start && len(l.tail) > 0 && offset >= l.tail[0].Base {
		defer l.mu.Unlock()
		first := sort.Search(len(l.tail), func(i int) bool { return l.tail[i].End() > offset })
		last, size := first, 0
		for last < len(l.tail) && (last == first || size+len(l.tail[last].Data) <= maxBytes) {
			size += len(l.tail[last].Data)
			last++
		}
		return slices.Clone(l.tail[first:last]), l.store.alive()
	}
	l.mu.Unlock()
	if offset < start {
		return nil, &TrimmedError{Log: l.name, Offset: offset, Start: start}
	}
	if offset >= end {
		return nil, l.store.alive()
	}
	l.store.counters.logReads.Add(1)
	chunks, err := l.readDisk(offset, end, maxBytes)
	if err == nil && len(chunks) == 0 {
		if start := l.Start(); offset < start { // trimmed meanwhile
			return nil, &TrimmedError{Log: l.name, Offset: offset, Start: start}
		}
		err = readError(fmt.Errorf("log %s has no chunk with offset %d", l.name, offset))
	}
	return chunks, err
}

func (l *Log) readDisk(offset, end int64, maxBytes int) (chunks []Chunk, err error) {
	err = l.store.view(func(txn *badger.Txn) error {
		from := l.at(txn, offset)
		size := int64(0)
		return scan(txn, l.prefix, from, func(item *badger.Item) (bool, error) {
			c, bytes, ok := readChunk(item.Key()[len(l.prefix):])
			if !ok {
				return false, readError(errMalformed)
			}
			if len(chunks) == 0 && (c.Base > offset || c.End() <= offset) || c.Base >= end {
				return false, nil
			}
			if len(chunks) > 0 && c.Base != chunks[len(chunks)-1].End() {
				return false, readError(fmt.Errorf("log %s has a gap at offset %d", l.name, chunks[len(chunks)-1].End()))
			}
			if len(chunks) > 0 && size+bytes > int64(maxBytes) {
				return false, nil
			}
			value, err := valueOf(item)
			if err == nil {
				c.Data, err = unpack(value)
			}
			if err != nil {
				return false, err
			}
			size += int64(len(c.Data))
			chunks = append(chunks, c)
			return true, nil
		})
	})
	return chunks, err
}

// at returns the key of the chunk that contains offset: the last one that begins at or before it.
func (l *Log) at(txn *badger.Txn, offset int64) []byte {
	target := binary.BigEndian.AppendUint64(slices.Clone(l.prefix), uint64(offset)+1)
	opts := badger.DefaultIteratorOptions
	opts.PrefetchValues, opts.Reverse = false, true
	it := txn.NewIterator(opts)
	defer it.Close()
	if it.Seek(target); it.ValidForPrefix(l.prefix) {
		return it.Item().KeyCopy(nil)
	}
	return target
}

// OffsetAt returns the base of the first chunk with a record at or after t, by event time; End when there is
// none. It reads the keys of the log from its start on: a microsecond or so for each chunk.
func (l *Log) OffsetAt(t int64) (int64, error) {
	found := l.End()
	err := l.chunks(func(c Chunk, _ int64) bool {
		if c.MaxTime < t || c.Base < l.Start() {
			return true
		}
		found = min(found, c.Base)
		return false
	})
	return found, err
}

// chunks visits the log's chunks on disk, without data.
func (l *Log) chunks(visit func(c Chunk, size int64) bool) error {
	return l.store.view(func(txn *badger.Txn) error {
		return scan(txn, l.prefix, nil, func(item *badger.Item) (bool, error) {
			c, size, ok := readChunk(item.Key()[len(l.prefix):])
			if !ok {
				return false, readError(errMalformed)
			}
			return visit(c, size), nil
		})
	})
}

func (l *Log) startKey() []byte {
	key := slices.Clone(l.prefix)
	key[len(key)-1] = 1
	return key
}

// recover finds the log's ends on disk.
func (l *Log) recover() error {
	value, ok, err := l.store.get(l.startKey())
	if err != nil {
		return err
	}
	if ok && len(value) == 8 {
		l.start = int64(binary.BigEndian.Uint64(value))
	}
	l.end = l.start
	gap := false
	err = l.chunks(func(c Chunk, size int64) bool {
		gap = c.Base != l.end
		l.end, l.bytes = c.End(), l.bytes+size
		return !gap
	})
	if err == nil && gap {
		err = readError(fmt.Errorf("log %s has a gap before offset %d", l.name, l.end))
	}
	l.next = l.end
	return err
}

// Retain sets the log's retention, which the store's own goroutine applies from time to time.
func (l *Log) Retain(cfg LogRetention) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retention = cfg
}

// Trim removes all chunks that lie before offset entirely.
func (l *Log) Trim(before int64) error {
	return l.trim(func(c Chunk, _ int64) bool { return c.End() <= before })
}

// retain applies the retention.
func (l *Log) retain() error {
	l.mu.Lock()
	cfg, surplus, end := l.retention, int64(0), l.end
	if cfg.MaxBytes > 0 {
		surplus = l.bytes - cfg.MaxBytes
	}
	l.mu.Unlock()
	if surplus <= 0 && cfg.MaxAge <= 0 {
		return nil
	}
	oldest := l.store.now().Add(-cfg.MaxAge).UnixNano()
	return l.trim(func(c Chunk, size int64) bool {
		if c.End() >= end || surplus <= 0 && (cfg.MaxAge <= 0 || c.Wall >= oldest) {
			return false
		}
		surplus -= size
		return true
	})
}

// trimBatch bounds the deletes of one commit.
const trimBatch = 1000

// trim removes chunks from the start on as long as surplus says so. The new start is in the same commit as
// the deletes. Readers are told the new start first, then the chunks go.
func (l *Log) trim(surplus func(Chunk, int64) bool) error {
	l.trimming.Lock()
	defer l.trimming.Unlock()
	for {
		b := l.store.NewBatch()
		start, bytes := int64(-1), int64(0)
		full := false
		err := l.store.view(func(txn *badger.Txn) error {
			return scan(txn, l.prefix, nil, func(item *badger.Item) (bool, error) {
				c, size, ok := readChunk(item.Key()[len(l.prefix):])
				if full = b.Len() >= trimBatch; !ok || full || !surplus(c, size) {
					return false, nil
				}
				b.delete(item.KeyCopy(nil))
				start, bytes = c.End(), bytes+size
				if size >= int64(l.store.valueThreshold) {
					l.store.removedBlobs.Add(size)
				}
				return true, nil
			})
		})
		if err != nil || start < 0 {
			return err
		}
		b.set(l.startKey(), binary.BigEndian.AppendUint64(nil, uint64(start)))
		l.mu.Lock()
		l.start, l.bytes = max(l.start, start), l.bytes-bytes
		for len(l.tail) > 0 && l.tail[0].Base < start {
			l.dropTail()
		}
		l.mu.Unlock()
		if err := l.store.Commit(context.Background(), b); err != nil {
			return err
		}
		if !full {
			return nil
		}
	}
}

// Oldest returns when the first chunk that is kept was appended; zero for an empty log.
func (l *Log) Oldest() (wall time.Time, err error) {
	err = l.chunks(func(c Chunk, _ int64) bool {
		wall = time.Unix(0, c.Wall)
		return false
	})
	return wall, err
}
