package microstore

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/skl"
)

// Batch collects the writes of one commit.
//
// A batch is two stacks: the operations the commit will carry out, and what undoes their effects on the
// caches and timers in memory. A mark is a height of both. Reads see the effects of a batch at once, so a
// batch that will not be committed must be rolled back (to the zero Mark, which is its beginning), newest
// batch first; until then what it touched stays pinned in memory.
//
// Values given to a batch belong to the store from then on: do not change them.
//
// Not safe for concurrent use: each lane of a task has its own. Once a commit has succeeded, the batch is
// spent; take a new one.
type Batch struct {
	store *Store
	token *token
	ops   []op
	undo  []undo
	bytes int   // what ops count against a transaction
	raw   int   // key and value bytes of ops, including values that go to the value log
	err   error // first misuse; Commit returns it

	entries []badger.Entry // what ops are in the transaction
	blocks  []*block       // where keys and some values lie; all but the last are full
	used    int            // bytes of the last
}

// block is memory of batches, for one after the other.
type block [64 << 10]byte

var spareBlocks = sync.Pool{New: func() any { return new(block) }}

// token stands for a batch in the caches: what a batch has written may not be evicted before it can be read
// back from disk.
type token struct{ committed atomic.Bool }

func (t *token) done() bool { return t == nil || t.committed.Load() }

type opKind uint8

const (
	opSet opKind = iota
	opDelete
	opDead // superseded within the batch
	opLate // key is assigned by the committer
)

type op struct {
	kind       opKind
	key, value []byte
	late       lateOp
}

// lateOp is an operation whose key depends on the order of commits: a chunk of a log, a row of an outbox.
type lateOp interface {
	assign() []byte // committer: take the next number and return the key
	unassign()      // committer: give it back, newest first, when the commit has not been handed on
	publish()       // finisher, in commit order: make it visible
}

// undo reverses one effect. do is a function at package level, so that a record costs no allocation.
type undo struct {
	do    func(*undo)
	a, b  any
	token *token
	n     int64
}

// Mark is a point in a batch to roll back to. The zero Mark is the beginning.
type Mark struct{ ops, undo, blocks, used int }

// parts are the large slices of spent batches, kept for the next ones.
type parts struct {
	ops     []op
	undo    []undo
	entries []badger.Entry
	blocks  []*block // none, but room for them
}

var spareParts = sync.Pool{New: func() any { return new(parts) }}

// NewBatch returns an empty batch.
func (s *Store) NewBatch() *Batch {
	p := spareParts.Get().(*parts)
	return &Batch{store: s, token: new(token), ops: p.ops, undo: p.undo, entries: p.entries, blocks: p.blocks}
}

// Put queues a named value of the store; nil removes it. Names are shared by all users of the store.
func (b *Batch) Put(name string, value []byte) {
	if err := checkName("value", name); err != nil {
		b.misuse(err)
		return
	}
	key := append(append(b.space(1+len(name)), spaceValues), name...)
	if value == nil {
		b.delete(b.keep(key))
		return
	}
	b.set(b.keep(key), value)
}

// Len returns the number of operations queued.
func (b *Batch) Len() int { return len(b.ops) }

// Bytes returns what the batch counts against MaxBatchBytes: keys, values up to the size that goes to the
// value log, and what the database adds to each.
func (b *Batch) Bytes() int { return b.bytes }

// RawBytes returns what the batch counts against MaxRawBytes: keys and values, also those that go to the value
// log.
func (b *Batch) RawBytes() int { return b.raw }

// Mark returns the present state, to roll back to.
func (b *Batch) Mark() Mark { return Mark{len(b.ops), len(b.undo), len(b.blocks), b.used} }

// Rollback undoes everything since m: operations and their effects on histories, tables and timers.
func (b *Batch) Rollback(m Mark) {
	for i := len(b.undo) - 1; i >= m.undo; i-- {
		u := &b.undo[i]
		u.do(u)
		*u = undo{}
	}
	b.undo = b.undo[:m.undo]
	for i := m.ops; i < len(b.ops); i++ {
		b.count(&b.ops[i], -1)
		b.ops[i] = op{}
	}
	b.ops = b.ops[:m.ops]
	b.giveBack(m.blocks)
	b.used = m.used
	if m.ops == 0 {
		b.err = nil
	}
}

func (b *Batch) misuse(err error) {
	if b.err == nil {
		b.err = err
	}
}

func (b *Batch) set(key, value []byte) int   { return b.push(op{kind: opSet, key: key, value: value}) }
func (b *Batch) delete(key []byte) int       { return b.push(op{kind: opDelete, key: key}) }
func (b *Batch) late(l lateOp, v []byte) int { return b.push(op{kind: opLate, late: l, value: v}) }
func (b *Batch) onRollback(u undo)           { b.undo = append(b.undo, u) }

func (b *Batch) push(o op) int {
	b.ops = append(b.ops, o)
	b.count(&o, 1)
	return len(b.ops) - 1
}

// change replaces an operation of this batch by another on the same key.
func (b *Batch) change(i int, kind opKind, value []byte) {
	old := b.ops[i]
	b.onRollback(undo{do: undoChange, a: b, b: &old, n: int64(i)})
	b.count(&b.ops[i], -1)
	b.ops[i].kind, b.ops[i].value = kind, value
	b.count(&b.ops[i], 1)
}

func undoChange(u *undo) {
	b, i := u.a.(*Batch), int(u.n)
	b.count(&b.ops[i], -1)
	b.ops[i] = *u.b.(*op)
	b.count(&b.ops[i], 1)
}

// lateKeyBytes is the longest key a lateOp makes.
const lateKeyBytes = 48

// count mirrors Badger's estimate of an entry (key, value or pointer, 12 bytes of its own). Badger bounds
// the number of entries too, by dividing the same limit by the size of a skip list node: counting each as
// that at least makes one number of the two bounds.
func (b *Batch) count(o *op, sign int) {
	if o.kind == opDead {
		return
	}
	keyBytes := len(o.key)
	if o.kind == opLate {
		keyBytes = lateKeyBytes
	}
	valueBytes := len(o.value)
	b.raw += sign * (keyBytes + valueBytes)
	if valueBytes >= b.store.valueThreshold {
		valueBytes = 12
	}
	b.bytes += sign * max(keyBytes+valueBytes+12, skl.MaxNodeSize)
}

// Encode returns what f appends, as a value for this batch alone: once that is committed, the memory is another's. So the value
// of a Table cannot be made with it, nor an Entry's that stays with the entry, nor may f keep dst.
func (b *Batch) Encode(f func(dst []byte) ([]byte, error)) ([]byte, error) {
	const least = 1 << 10 // most values fit
	value, err := f(b.space(least))
	if err != nil {
		return nil, err
	}
	return b.keep(value), nil
}

// space returns an empty slice with room for n bytes; keep ends what was appended to it. Keys lie one after
// the other in large blocks, because an allocation for each would cost more than writing them.
func (b *Batch) space(n int) []byte {
	if n > len(block{}) {
		return make([]byte, 0, n)
	}
	if last := len(b.blocks) - 1; last >= 0 && len(block{})-b.used >= n {
		return b.blocks[last][b.used:b.used]
	}
	b.blocks, b.used = append(b.blocks, spareBlocks.Get().(*block)), 0
	return b.blocks[len(b.blocks)-1][:0]
}

func (b *Batch) keep(data []byte) []byte {
	if last := len(b.blocks) - 1; len(data) > 0 && last >= 0 && b.used < len(block{}) && &data[0] == &b.blocks[last][b.used] {
		b.used += len(data)
	} // else it has outgrown the space and lies elsewhere
	return data[:len(data):len(data)]
}

// fill adds the operations to a transaction.
func (b *Batch) fill(txn *badger.Txn) error {
	b.entries = slices.Grow(b.entries[:0], len(b.ops)) // all at once: the transaction points into it
	for i := range b.ops {
		o := &b.ops[i]
		switch o.kind {
		case opDelete:
			if err := txn.Delete(o.key); err != nil {
				return err
			}
		case opSet, opLate:
			b.entries = append(b.entries, badger.Entry{Key: o.key, Value: o.value})
			if err := txn.SetEntry(&b.entries[len(b.entries)-1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// spend lets go of what a committed batch holds, for other batches. The database has copied keys and values by then.
func (b *Batch) spend() {
	b.giveBack(0)
	clear(b.ops)
	clear(b.undo)
	clear(b.entries)
	spareParts.Put(&parts{ops: b.ops[:0], undo: b.undo[:0], entries: b.entries[:0], blocks: b.blocks[:0]})
	b.ops, b.undo, b.entries, b.blocks, b.bytes, b.raw = nil, nil, nil, nil, 0, 0
}

// giveBack lets go of all blocks but the first n.
func (b *Batch) giveBack(n int) {
	for i, one := range b.blocks[n:] {
		spareBlocks.Put(one)
		b.blocks[n+i] = nil
	}
	b.blocks = b.blocks[:n]
}
