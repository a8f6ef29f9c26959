package framework

import (
	"fmt"

	"github.com/millrace/millrace/microstore"
)

// Table keeps one value for each key.
type Table[S any] struct {
	name  string
	codec Codec[S]
	node  *node
	slot  int
}

// NewTable declares a table; the name is unique in its step. A nil codec is JSON.
func NewTable[S any](name string, codec Codec[S]) *Table[S] {
	if codec == nil {
		codec = JSON[S]()
	}
	return &Table[S]{name: name, codec: codec}
}

func (t *Table[S]) declare(n *node) { t.node, t.slot = n, slotOf(n, t) }

func (t *Table[S]) open(task *microstore.Task) (any, error) {
	return task.Table(t.node.name + "." + t.name)
}

func (t *Table[S]) shape() string { return "table of " + typeName[S]() }

func (t *Table[S]) describe() string { return t.shape() }

func (t *Table[S]) store(s *Scope) *microstore.Table {
	return s.task.states[t.node.index][t.slot].(*microstore.Table)
}

// Get returns the value of the current key.
func (t *Table[S]) Get(s *Scope) (value S, ok bool, err error) {
	raw, data, ok, err := t.store(s).Get(s.key)
	if err != nil || !ok {
		return value, false, err
	}
	if data != nil {
		return data.(S), true, nil
	}
	if err := t.codec.Decode(&Record{Value: raw}, &value); err != nil {
		return value, false, Fatal(fmt.Errorf("table %q, key %q: %w", t.name, s.key, unreadable[S](err)))
	}
	t.store(s).SetData(s.key, value)
	return value, true, nil
}

// Set keeps a value for the current key. The value must not be changed afterwards.
func (t *Table[S]) Set(s *Scope, value S) error {
	raw, err := s.staying.encode(func(dst []byte) ([]byte, error) { return t.codec.Append(dst, &value) })
	if err != nil {
		return Permanent(fmt.Errorf("encode for table %q: %w", t.name, err))
	}
	s.changes()
	return t.store(s).Set(s.batch, s.key, raw, value)
}

// Delete forgets the value of the current key.
func (t *Table[S]) Delete(s *Scope) error {
	s.changes()
	return t.store(s).Delete(s.batch, s.key)
}
