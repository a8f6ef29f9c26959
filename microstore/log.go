package microstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// Log is a durable ordered log of records, in chunks: what one batch appends is one chunk, one key in the
// database. Offsets count records from 0 and have no gaps. Safe for concurrent use.
//
// The committer numbers chunks in the order of commits and makes them visible in that order, so a reader sees
// a log that only grows at its end, whoever appends to it.
type Log struct {
	store  *Store
	name   string
	prefix []byte // of chunks
	next   int64  // offset of the next chunk; the committer's

	mu        sync.Mutex
	start     int64
	end       int64
	bytes     int64   // on disk
	tail      []Chunk // the newest chunks, as far as their share of memory goes
	tailBytes int64
	changed   chan struct{} // closed at the next append; nil while nobody waits
	notify    map[int]chan<- struct{}
	notifyID  int
	retention LogRetention

	trimming sync.Mutex
}

// Chunk is what one batch appended.
type Chunk struct {
	Base             int64 // offset of the first record
	Count            int   // records
	MinTime, MaxTime int64 // event times, unix nanoseconds
	Wall             int64 // when it was appended, unix nanoseconds
	Data             []byte
}

// End returns the offset after the chunk's last record.
func (c Chunk) End() int64 { return c.Base + int64(c.Count) }

// Appended is a chunk on its way.
type Appended struct {
	log    *Log
	chunk  Chunk
	stored int // bytes
}

// Base returns the offset of the first record. Valid once the commit has succeeded.
func (a *Appended) Base() int64 { return a.chunk.Base }

// LogRetention bounds a log; zero: unbounded. Whole chunks are removed, the oldest first; the newest stays.
type LogRetention struct {
	MaxBytes int64         // as they are on disk, where a chunk is packed
	MaxAge   time.Duration // since it was appended, by wall time
}

// Log returns the named log, made when it is not there. Calling it again returns the same.
func (s *Store) Log(name string) (*Log, error) {
	if err := checkName("log", name); err != nil {
		return nil, err
	}
	s.names.Lock()
	defer s.names.Unlock()
	if l := s.logs[name]; l != nil {
		return l, s.alive()
	}
	id, err := s.id([]byte{spaceNames}, kindLog, name)
	if err != nil {
		return nil, err
	}
	l := &Log{store: s, name: name, notify: map[int]chan<- struct{}{}}
	l.prefix = append(binary.BigEndian.AppendUint32([]byte{spaceLog}, id), 0)
	if err := l.recover(); err != nil {
		return nil, err
	}
	s.logs[name] = l
	return l, nil
}

// Logs returns the names of all logs, sorted.
func (s *Store) Logs() []string {
	names, err := s.named([]byte{spaceNames}, kindLog)
	if err != nil {
		s.log.Error("microstore: list logs", "store", s.place(), "error", err)
	}
	return names
}

// openLogs opens what logs there are, so that their retention is kept even if nobody asks for them.
func (s *Store) openLogs() error {
	names, err := s.named([]byte{spaceNames}, kindLog)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := s.Log(name); err != nil {
			return err
		}
	}
	return nil
}

// Name returns the name of the log.
func (l *Log) Name() string { return l.name }

// Append queues a chunk of count records. minTime and maxTime are the least and the greatest event time of
// them. Its offsets are assigned when the batch is committed.
func (l *Log) Append(b *Batch, count int, minTime, maxTime int64, data []byte) *Appended {
	a := &Appended{log: l, chunk: Chunk{Base: -1, Count: count, MinTime: minTime, MaxTime: maxTime, Data: data}}
	if count <= 0 {
		b.misuse(fmt.Errorf("microstore: log %s: a chunk needs a record, got %d", l.name, count))
		return a
	}
	packed := b.keep(pack(data, b.space))
	a.stored = len(packed)
	b.late(a, packed)
	return a
}

// chunkKeyBytes is the length of a chunk's key after the prefix. Everything but the data is in the key, so
// that searching by time, retention and recovery do not read values.
const chunkKeyBytes = 8 + 4 + 3*8 + 4

func (a *Appended) assign() []byte {
	l, c := a.log, &a.chunk
	c.Base, c.Wall = l.next, l.store.now().UnixNano()
	l.next = c.End()
	key := append(make([]byte, 0, len(l.prefix)+chunkKeyBytes), l.prefix...)
	key = binary.BigEndian.AppendUint64(key, uint64(c.Base))
	key = binary.BigEndian.AppendUint32(key, uint32(c.Count))
	key = appendTime(appendTime(appendTime(key, c.MinTime), c.MaxTime), c.Wall)
	return binary.BigEndian.AppendUint32(key, uint32(a.stored))
}

func (a *Appended) unassign() {
	a.log.next = a.chunk.Base
	a.chunk.Base = -1
}

func (a *Appended) publish() {
	l := a.log
	l.mu.Lock()
	l.end = a.chunk.End()
	l.bytes += int64(a.stored)
	l.keepTail(a.chunk)
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
	for _, ch := range l.notify {
		select {
		case ch <- struct{}{}:
		default: // it has not taken the last one yet
		}
	}
	l.mu.Unlock()
}

// readChunk takes a chunk's key apart; size is what its data takes on disk.
func readChunk(key []byte) (c Chunk, size int64, ok bool) {
	if len(key) != chunkKeyBytes {
		return c, 0, false
	}
	c.Base = int64(binary.BigEndian.Uint64(key))
	c.Count = int(binary.BigEndian.Uint32(key[8:]))
	c.MinTime, c.MaxTime, c.Wall = readTime(key[12:]), readTime(key[20:]), readTime(key[28:])
	return c, int64(binary.BigEndian.Uint32(key[36:])), true
}

// Start returns the offset of the first record that is kept.
func (l *Log) Start() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.start
}

// End returns the offset that the next record will have. All before it are committed.
func (l *Log) End() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

// Size returns the offsets of the first record that is kept and of the next one, and how many bytes of data lie
// between them.
func (l *Log) Size() (start, end, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.start, l.end, l.bytes
}

// Wait returns when End is greater than offset, or the context or the store ends.
func (l *Log) Wait(ctx context.Context, offset int64) error {
	for {
		l.mu.Lock()
		if l.end > offset {
			l.mu.Unlock()
			return nil
		}
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.store.closing:
			return ErrClosed
		}
	}
}

// Notify sends to ch after each append, without waiting: give it a buffer of one, and a send that finds it
// full is one that its reader will see anyway. cancel ends it.
func (l *Log) Notify(ch chan<- struct{}) (cancel func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := l.notifyID
	l.notifyID++
	l.notify[id] = ch
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.notify, id)
	}
}

// keepTail puts a chunk into the tail and lets go of the oldest ones beyond this log's share of the budget.
func (l *Log) keepTail(c Chunk) {
	const least = 256 << 10 // of every log, whatever the others have
	size := int64(len(c.Data)) + 100
	l.tail = append(l.tail, c)
	l.tailBytes += size
	l.store.tail.add(size)
	for len(l.tail) > 0 && l.store.tail.exceeded() && (l.tailBytes > least || l.store.tail.limit < least) {
		l.dropTail()
	}
}

func (l *Log) dropTail() {
	size := int64(len(l.tail[0].Data)) + 100
	l.tail[0] = Chunk{}
	l.tail = l.tail[1:]
	l.tailBytes -= size
	l.store.tail.add(-size)
}
