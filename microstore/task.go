package microstore

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"github.com/dgraph-io/badger/v4"
)

// Task is the slice of a store that belongs to one task: its meta value, histories, tables, timers and
// processed ids. All its keys begin with the task's number, so that the slice can be dropped by itself.
type Task struct {
	store *Store
	name  string
	id    uint32
	base  []byte // space and number

	parts     sync.Mutex
	histories map[string]*History
	tables    map[string]*Table
	timers    *Timers
	processed map[string]*Processed
	numbers   map[numbered]string // names of the parts, for Changes
}

// Task returns the slice of the named task, made when it is not there. Calling it again returns the same.
func (s *Store) Task(name string) (*Task, error) {
	if err := checkName("task", name); err != nil {
		return nil, err
	}
	s.names.Lock()
	defer s.names.Unlock()
	if t := s.tasks[name]; t != nil {
		return t, s.alive()
	}
	id, err := s.id([]byte{spaceNames}, kindTask, name)
	if err != nil {
		return nil, err
	}
	t := &Task{store: s, name: name, id: id, base: binary.BigEndian.AppendUint32([]byte{spaceTask}, id),
		histories: map[string]*History{}, tables: map[string]*Table{}, processed: map[string]*Processed{}}
	s.tasks[name] = t
	return t, nil
}

// Tasks lists the names of all tasks that have a slice, sorted.
func (s *Store) Tasks() ([]string, error) { return s.named([]byte{spaceNames}, kindTask) }

func (s *Store) alive() error {
	if err := s.enter(); err != nil {
		return err
	}
	s.leave()
	return nil
}

// Name returns the name of the task.
func (t *Task) Name() string { return t.name }

// key returns the prefix of one part of the slice, followed by the number of a history or table.
func (t *Task) key(part byte, number ...uint16) []byte {
	key := append(append(make([]byte, 0, 16), t.base...), part)
	for _, n := range number {
		key = binary.BigEndian.AppendUint16(key, n)
	}
	return key
}

// number returns the number of a named part, which fits its two bytes in the keys. Callers hold t.parts.
func (t *Task) number(kind byte, name string) (uint16, error) {
	t.store.names.Lock()
	defer t.store.names.Unlock()
	id, err := t.store.id(t.key(partNames), kind, name)
	if err == nil && id > math.MaxUint16 {
		err = fmt.Errorf("microstore: task %s has more than %d histories or tables", t.name, math.MaxUint16)
	}
	return uint16(id), err
}

// Meta returns the task's meta value (its position, for instance); nil if there is none.
func (t *Task) Meta() ([]byte, error) {
	value, _, err := t.store.get(t.key(partMeta))
	return value, err
}

// SetMeta queues the task's meta value, to become durable with everything else in the batch.
func (t *Task) SetMeta(b *Batch, value []byte) { b.set(t.key(partMeta), value) }

// Close lets go of what is in memory of the slice, with all that batches which were not committed have done to it;
// the data stays, and Store.Task opens it anew. The Task, its parts and batches that were not committed must
// not be used afterwards.
func (t *Task) Close() {
	t.store.names.Lock()
	defer t.store.names.Unlock()
	if t.store.tasks[t.name] == t {
		delete(t.store.tasks, t.name)
		t.forget()
	}
}

// Drop removes the whole slice. No batch may hold writes of the task. The Task and its parts must not be
// used afterwards; Store.Task makes a new, empty one. A crash in the middle does not leave a part of it: the
// name is gone first, in one commit, and the next Open removes the rest.
//
// Commits of other tasks wait while the database rewrites the files that the slice shares with theirs.
func (t *Task) Drop() error {
	s := t.store
	s.names.Lock()
	defer s.names.Unlock()
	if s.tasks[t.name] != t {
		return s.alive() // it has been dropped
	}
	marker := binary.BigEndian.AppendUint32([]byte{spaceSystem, 'd'}, t.id)
	err := s.apply(func(b *Batch) {
		b.delete(append([]byte{spaceNames, kindTask}, t.name...))
		b.set(marker, t.base)
	})
	if err != nil {
		return err
	}
	delete(s.tasks, t.name)
	t.forget()
	return s.finishDrops()
}

// finishDrops removes the slices that are marked as dropped.
func (s *Store) finishDrops() error {
	var markers, slices [][]byte
	err := s.view(func(txn *badger.Txn) error {
		return scan(txn, []byte{spaceSystem, 'd'}, nil, func(item *badger.Item) (bool, error) {
			slice, err := valueOf(item)
			markers, slices = append(markers, item.KeyCopy(nil)), append(slices, slice)
			return true, err
		})
	})
	if err != nil || len(markers) == 0 {
		return err
	}
	s.rewriting.Lock()
	defer s.rewriting.Unlock()
	if err := s.exclusive(func() error { return s.dropPrefix(slices...) }); err != nil {
		return fmt.Errorf("microstore: drop the slice of a task: %w", err)
	}
	return s.apply(func(b *Batch) {
		for _, marker := range markers {
			b.delete(marker)
		}
	})
}

// forget gives the caches of the slice back.
func (t *Task) forget() {
	t.parts.Lock()
	defer t.parts.Unlock()
	for _, h := range t.histories {
		for i := range h.shards {
			h.shards[i].forget()
		}
	}
	for _, tb := range t.tables {
		for i := range tb.shards {
			tb.shards[i].forget()
		}
	}
	for _, p := range t.processed {
		p.forget()
	}
}
