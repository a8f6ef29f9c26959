package microstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/millrace/millrace/internal/fields"
)

// The slice of a task can be kept a second time, elsewhere, as the changes that commits make to it. Changes are
//
//	names     a count (uvarint) and as many pairs of kind (1 byte) and name (length and bytes)
//	changes   set or delete (1 byte), part (1 byte), place of its name among the names (uvarint, where the part has
//	          one), rest of the key (length and bytes), value (length and bytes, where it is set)
//
// and are packed as the rows of outboxes are. Names stand for the numbers that keys have in one store and not in
// another. Changes of one slice are applied in the order of its commits; applying a run of them again from a place on
// changes nothing.

// changed says what happened to a key.
const (
	changedSet byte = iota
	changedDelete
)

// kindOf is the kind of the name whose number follows the part in a key; 0 where none does.
func kindOf(part byte) byte {
	switch part {
	case partHistory, partBound:
		return kindHistory
	case partTable:
		return kindTable
	case partProcessed:
		return kindProcessed
	}
	return 0
}

// named is the name of a history, table or list of processed ids.
type named struct {
	kind byte
	name string
}

// changes are being written.
type changes struct {
	task   *Task
	places map[[3]byte]int // of names, by kind and number
	names  []named
	body   []byte
}

func (c *changes) add(key, value []byte, how byte) error {
	if !bytes.HasPrefix(key, c.task.base) || key[len(c.task.base)] == partNames {
		return nil // it is not of the slice, or made anew where the changes are applied
	}
	rest := key[len(c.task.base):]
	part := rest[0]
	rest = rest[1:]
	c.body = append(c.body, how, part)
	if kind := kindOf(part); kind != 0 {
		place, err := c.place(kind, rest)
		if err != nil {
			return err
		}
		c.body = binary.AppendUvarint(c.body, uint64(place))
		rest = rest[2:]
	}
	c.body = append(binary.AppendUvarint(c.body, uint64(len(rest))), rest...)
	if how == changedSet {
		c.body = append(binary.AppendUvarint(c.body, uint64(len(value))), value...)
	}
	return nil
}

func (c *changes) place(kind byte, number []byte) (int, error) {
	at := [3]byte{kind, number[0], number[1]}
	if place, ok := c.places[at]; ok {
		return place, nil
	}
	name, err := c.task.nameOf(kind, binary.BigEndian.Uint16(number))
	if err != nil {
		return 0, err
	}
	if c.places == nil {
		c.places = make(map[[3]byte]int)
	}
	c.places[at] = len(c.names)
	c.names = append(c.names, named{kind, name})
	return c.places[at], nil
}

func (c *changes) packed() []byte {
	head := binary.AppendUvarint(nil, uint64(len(c.names)))
	for _, n := range c.names {
		head = append(binary.AppendUvarint(append(head, n.kind), uint64(len(n.name))), n.name...)
	}
	return pack(append(head, c.body...), apart)
}

// nameOf returns the name that has a number in the task.
func (t *Task) nameOf(kind byte, number uint16) (string, error) {
	t.parts.Lock()
	defer t.parts.Unlock()
	if name, ok := t.numbers[numbered{kind, number}]; ok {
		return name, nil
	}
	t.numbers = make(map[numbered]string)
	prefix := t.key(partNames)
	err := t.store.view(func(txn *badger.Txn) error {
		return scan(txn, prefix, nil, func(item *badger.Item) (bool, error) {
			id, err := valueOf(item)
			if name := item.Key()[len(prefix):]; err == nil && len(name) > 1 && len(id) == 4 {
				t.numbers[numbered{name[0], uint16(binary.BigEndian.Uint32(id))}] = string(name[1:])
			}
			return true, err
		})
	})
	if err != nil {
		return "", err
	}
	name, ok := t.numbers[numbered{kind, number}]
	if !ok {
		return "", readError(fmt.Errorf("task %s has no name for number %d of kind %q", t.name, number, kind))
	}
	return name, nil
}

type numbered struct {
	kind   byte
	number uint16
}

// Changes returns what batches that are not yet committed change in the slice. What else they write is left out.
func (t *Task) Changes(batches ...*Batch) ([]byte, error) {
	c := changes{task: t}
	for _, b := range batches {
		for i := range b.ops {
			o := &b.ops[i]
			var err error
			switch o.kind {
			case opSet:
				err = c.add(o.key, o.value, changedSet)
			case opDelete:
				err = c.add(o.key, nil, changedDelete)
			case opDead, opLate:
			}
			if err != nil {
				return nil, err
			}
		}
	}
	return c.packed(), nil
}

// Copy returns the slice as committed, as changes that make it, from a key on (nil: the first) and about limit bytes
// of it. next is the key to go on from, nil when there is no more. It waits for a commit that is under way.
func (t *Task) Copy(from []byte, limit int) (data, next []byte, err error) {
	c := changes{task: t}
	err = t.store.view(func(txn *badger.Txn) error {
		return scan(txn, t.base, from, func(item *badger.Item) (bool, error) {
			if len(c.body) >= limit {
				next = item.KeyCopy(nil)
				return false, nil
			}
			value, err := valueOf(item)
			if err != nil {
				return false, err
			}
			return true, c.add(item.Key(), value, changedSet)
		})
	})
	if err != nil {
		return nil, nil, err
	}
	return c.packed(), next, nil
}

// Replay writes changes of another store's slice of the same name into a task's. Nothing else of the slice may be open.
// Not safe for concurrent use.
type Replay struct {
	task  *Task
	batch *Batch
}

// Replay begins to write changes into the slice.
func (t *Task) Replay() *Replay { return &Replay{t, t.store.NewBatch()} }

var errChanges = errors.New("changes of a slice are damaged")

// Apply queues changes. When they do not fit one commit with what is queued already, it commits that first, and a part of
// them: so the slice is whole again only after the Commit that follows.
func (r *Replay) Apply(ctx context.Context, data []byte) error {
	rest, err := unpack(data)
	if err != nil {
		return errChanges
	}
	w := fields.Reader{Rest: rest}
	var numbers []uint16
	for n := w.Uvarint(); n > 0 && !w.Failed; n-- {
		kind, name := w.Byte(), string(w.Bytes())
		if w.Failed || checkName("part of a slice", name) != nil {
			return errChanges
		}
		r.task.parts.Lock()
		number, err := r.task.number(kind, name)
		r.task.parts.Unlock()
		if err != nil {
			return err
		}
		numbers = append(numbers, number)
	}
	for len(w.Rest) > 0 {
		how, part := w.Byte(), w.Byte()
		key := r.task.key(part)
		if kindOf(part) != 0 {
			place := w.Uvarint()
			if place >= uint64(len(numbers)) {
				return errChanges
			}
			key = r.task.key(part, numbers[place])
		}
		key = append(key, w.Bytes()...)
		var value []byte
		if how == changedSet {
			value = w.Bytes()
		}
		if w.Failed || how > changedDelete || len(key) > maxKeyBytes {
			return errChanges
		}
		if err := r.write(ctx, key, value, how); err != nil {
			return err
		}
	}
	if w.Failed {
		return errChanges
	}
	return nil
}

func (r *Replay) write(ctx context.Context, key, value []byte, how byte) error {
	const beside = 1 << 10 // room for what Commit is given
	size := len(key) + len(value) + beside
	if r.batch.Len() > 0 && (r.batch.Bytes()+size > r.task.store.maxBatchBytes || r.batch.RawBytes()+size > r.task.store.maxRawBytes) {
		if err := r.Commit(ctx, nil); err != nil {
			return err
		}
	}
	if how == changedDelete {
		r.batch.delete(key)
	} else {
		r.batch.set(key, value)
	}
	return nil
}

// Queued is how many bytes wait for Commit.
func (r *Replay) Queued() int { return r.batch.RawBytes() }

// Commit makes durable what is queued, together with what also adds to its batch.
func (r *Replay) Commit(ctx context.Context, also func(*Batch)) error {
	if also != nil {
		also(r.batch)
	}
	if err := r.task.store.Commit(ctx, r.batch); err != nil {
		return err
	}
	r.batch = r.task.store.NewBatch()
	return nil
}

// ChangedMeta returns the meta value that changes set, nil when they set none.
func ChangedMeta(data []byte) (meta []byte, err error) {
	rest, err := unpack(data)
	w := fields.Reader{Rest: rest}
	for n := w.Uvarint(); n > 0 && !w.Failed; n-- {
		w.Byte()
		w.Bytes()
	}
	for err == nil && len(w.Rest) > 0 {
		how, part := w.Byte(), w.Byte()
		if kindOf(part) != 0 {
			w.Uvarint()
		}
		w.Bytes()
		if how == changedSet {
			if value := w.Bytes(); part == partMeta {
				meta = value
			}
		}
	}
	if err != nil || w.Failed {
		return nil, errChanges
	}
	return meta, nil
}
