package microstore

import (
	"encoding/binary"
	"math"
	"slices"
	"sync"

	"github.com/dgraph-io/badger/v4"
)

// Outbox keeps rows that are to be sent after the commit that decided them. A row is a blob of many records:
// one for each commit and sink. Large rows lie in the database's value log, whose files are dropped once most
// of their rows have been removed. Safe for concurrent use.
type Outbox struct {
	store  *Store
	name   string
	prefix []byte // of rows
	next   int64  // sequence number of the next row; the committer's
	used   int64  // every later number is at or after it; the committer's

	mu    sync.Mutex
	rows  map[int64]int64 // stored sizes of the rows that are not removed, by number
	bytes int64
}

// Row is one row of an outbox.
type Row struct {
	seq    int64
	Data   []byte // of a row that was read
	stored int64  // bytes
	outbox *Outbox
}

// Seq returns the number of the row: numbers rise in the order of commits and are never used again. Valid
// once the commit has succeeded. The first is 1.
func (r *Row) Seq() int64 { return r.seq }

// Outbox returns the named outbox, made when it is not there. Calling it again returns the same.
func (s *Store) Outbox(name string) (*Outbox, error) {
	if err := checkName("outbox", name); err != nil {
		return nil, err
	}
	s.names.Lock()
	defer s.names.Unlock()
	if o := s.outboxes[name]; o != nil {
		return o, s.alive()
	}
	id, err := s.id([]byte{spaceNames}, kindOutbox, name)
	if err != nil {
		return nil, err
	}
	o := &Outbox{store: s, name: name, next: 1, rows: map[int64]int64{}}
	o.prefix = append(binary.BigEndian.AppendUint32([]byte{spaceOutbox}, id), outboxRows)
	if err := o.recover(); err != nil {
		return nil, err
	}
	s.outboxes[name] = o
	return o, nil
}

// Outboxes returns the names of all outboxes, sorted.
func (s *Store) Outboxes() ([]string, error) { return s.named([]byte{spaceNames}, kindOutbox) }

const (
	outboxRows byte = iota
	outboxPosition
	outboxNext
)

// key returns the key of one of the outbox's single values, or the prefix of its rows.
func (o *Outbox) key(part byte) []byte {
	key := slices.Clone(o.prefix)
	key[len(key)-1] = part
	return key
}

func (o *Outbox) rowKey(seq int64) []byte {
	return binary.BigEndian.AppendUint64(o.key(outboxRows), uint64(seq))
}

// Add queues a row. data is the caller's again when it returns.
func (o *Outbox) Add(b *Batch, data []byte) *Row {
	packed := b.keep(pack(data, b.space))
	r := &Row{stored: int64(len(packed)), outbox: o}
	b.late(r, packed)
	return r
}

func (r *Row) assign() []byte {
	r.seq = r.outbox.next
	r.outbox.next++
	return r.outbox.rowKey(r.seq)
}

func (r *Row) unassign() {
	r.outbox.next = r.seq
	r.seq = 0
}

func (r *Row) publish() {
	o := r.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rows[r.seq] = r.stored
	o.bytes += r.stored
}

// Rows returns committed rows with numbers greater than after, in order, until their data exceeds maxBytes:
// at least one if there is any.
func (o *Outbox) Rows(after int64, maxBytes int) (rows []Row, err error) {
	if after == math.MaxInt64 {
		return nil, o.store.alive()
	}
	prefix := o.key(outboxRows)
	err = o.store.view(func(txn *badger.Txn) error {
		size := int64(0)
		return scan(txn, prefix, o.rowKey(max(0, after+1)), func(item *badger.Item) (bool, error) {
			if len(rows) > 0 && size+item.ValueSize() > int64(maxBytes) {
				return false, nil
			}
			value, err := valueOf(item)
			if err == nil {
				value, err = unpack(value)
			}
			if err != nil {
				return false, err
			}
			size += int64(len(value))
			seq := int64(binary.BigEndian.Uint64(item.Key()[len(prefix):]))
			rows = append(rows, Row{seq: seq, Data: value, stored: item.ValueSize(), outbox: o})
			return true, nil
		})
	})
	return rows, err
}

// removal takes rows out of the backlog when their delete is committed. Its key remembers that their numbers
// are used up, for when no row is left to show it.
type removal struct {
	outbox *Outbox
	seqs   []int64
	value  []byte
}

func (r *removal) assign() []byte {
	r.outbox.used = max(r.outbox.used, slices.Max(r.seqs)+1)
	binary.BigEndian.PutUint64(r.value, uint64(r.outbox.used))
	return r.outbox.key(outboxNext)
}

func (r *removal) unassign() {} // used may run ahead

func (r *removal) publish() {
	o := r.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, seq := range r.seqs {
		size := o.rows[seq]
		delete(o.rows, seq)
		o.bytes -= size
		if size >= int64(o.store.valueThreshold) {
			o.store.removedBlobs.Add(size)
		}
	}
}

// Remove queues the deletion of rows; unknown numbers are ignored.
func (o *Outbox) Remove(b *Batch, seqs ...int64) {
	if len(seqs) == 0 {
		return
	}
	for _, seq := range seqs {
		b.delete(o.rowKey(seq))
	}
	r := &removal{outbox: o, seqs: slices.Clone(seqs), value: make([]byte, 8)}
	b.late(r, r.value)
}

// SetPosition queues the outbox's position, a number of the caller's: what has been sent, for instance.
func (o *Outbox) SetPosition(b *Batch, p int64) {
	b.set(o.key(outboxPosition), binary.BigEndian.AppendUint64(nil, uint64(p)))
}

// Position returns the committed position; not ok when none was ever set.
func (o *Outbox) Position() (p int64, ok bool, err error) {
	value, ok, err := o.store.get(o.key(outboxPosition))
	if err != nil || !ok {
		return 0, false, err
	}
	return int64(binary.BigEndian.Uint64(value)), true, nil
}

// Backlog returns how many rows are committed and not removed, and the bytes that they take on disk. In memory,
// it takes a few dozen bytes a row.
func (o *Outbox) Backlog() (rows int, bytes int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.rows), o.bytes
}

func (o *Outbox) recover() error {
	value, ok, err := o.store.get(o.key(outboxNext))
	if err != nil {
		return err
	}
	if ok && len(value) == 8 {
		o.used = int64(binary.BigEndian.Uint64(value))
		o.next = max(o.next, o.used)
	}
	prefix := o.key(outboxRows)
	return o.store.view(func(txn *badger.Txn) error {
		return scan(txn, prefix, nil, func(item *badger.Item) (bool, error) {
			seq := int64(binary.BigEndian.Uint64(item.Key()[len(prefix):]))
			o.next = max(o.next, seq+1)
			o.rows[seq] = item.ValueSize()
			o.bytes += item.ValueSize()
			return true, nil
		})
	})
}
