package microstore

import (
	"slices"

	"github.com/dgraph-io/badger/v4"

	"github.com/millrace/millrace/internal/failpoint"
)

// Table keeps one value per key: the state of a fold. Values are cached within the store's budget, like the
// lists of a history. A table all of whose rows are in memory knows which keys it does not have; a larger one
// asks the disk, which is a point read behind a Bloom filter.
//
// Calls for keys of one Shard must come from one goroutine at a time.
type Table struct {
	task   *Task
	name   string
	prefix []byte
	shards [Shards]tableShard
}

type tableShard struct {
	table    *Table
	rows     map[string]*row
	recency  recency[row]
	complete bool // a row that is not in rows does not exist
}

type row struct {
	shard *tableShard
	key   string
	rowState
	bytes int64
	node  node[row]
}

// rowState is what a rollback restores.
type rowState struct {
	value []byte
	data  any
	ok    bool // the row exists; a deleted one is remembered until the delete is committed
	token *token
	op    int // the operation in the batch of token
	known bool
}

// Table returns the named table of the task, made when it is not there. Calling it again returns the same.
func (t *Task) Table(name string) (*Table, error) {
	if err := checkName("table", name); err != nil {
		return nil, err
	}
	t.parts.Lock()
	defer t.parts.Unlock()
	if tb := t.tables[name]; tb != nil {
		return tb, t.store.alive()
	}
	number, err := t.number(kindTable, name)
	if err != nil {
		return nil, err
	}
	tb := &Table{task: t, name: name, prefix: t.key(partTable, number)}
	for i := range tb.shards {
		tb.shards[i] = tableShard{table: tb, rows: map[string]*row{}}
	}
	if err := tb.warm(); err != nil {
		return nil, err
	}
	t.tables[name] = tb
	return tb, nil
}

// Get returns the value of a key, the caller's own writes included, and the decoded form that Set or SetData
// kept with it, nil if it is not in memory any more. Do not change the value.
func (tb *Table) Get(key string) (value []byte, data any, ok bool, err error) {
	r, err := tb.shards[Shard(key)].get(key)
	if r == nil || err != nil {
		return nil, nil, false, err
	}
	return r.value, r.data, r.ok, nil
}

// Set gives a key a value and keeps data, its decoded form, beside it in memory. Setting a key again in the
// same batch replaces the write that is queued, so a key's many updates in one batch are one write.
func (tb *Table) Set(b *Batch, key string, value []byte, data any) error {
	return tb.write(b, key, rowState{value: value, data: data, ok: true}, opSet)
}

// Delete removes a key; it may be absent.
func (tb *Table) Delete(b *Batch, key string) error {
	return tb.write(b, key, rowState{}, opDelete)
}

// SetData keeps the decoded form of the value of a key, if it is in memory.
func (tb *Table) SetData(key string, data any) {
	if r := tb.shards[Shard(key)].rows[key]; r != nil && r.ok {
		r.data = data
	}
}

// All calls fn for every row as committed until it returns false. It reads the disk only and may run at any
// time.
func (tb *Table) All(fn func(key string, value []byte) bool) error {
	return tb.task.store.view(func(txn *badger.Txn) error {
		return scan(txn, tb.prefix, nil, func(item *badger.Item) (bool, error) {
			value, err := valueOf(item)
			if err != nil {
				return false, err
			}
			return fn(string(item.Key()[len(tb.prefix):]), value), nil
		})
	})
}

func (tb *Table) write(b *Batch, key string, state rowState, kind opKind) error {
	if err := checkKey("table key", key); err != nil {
		return err
	}
	sh := &tb.shards[Shard(key)]
	r := sh.rows[key]
	if r == nil {
		r = sh.create(key)
	}
	old := r.rowState
	state.token, state.known = b.token, true
	if old.token == b.token {
		state.op = old.op
		b.change(old.op, kind, state.value)
	} else {
		k := append(append(b.space(len(tb.prefix)+len(key)), tb.prefix...), key...)
		state.op = b.push(op{kind: kind, key: b.keep(k), value: state.value})
	}
	b.onRollback(undo{do: undoRow, a: r, b: &old})
	r.become(state)
	r.node.used = true
	sh.evict(r)
	return nil
}

func undoRow(u *undo) {
	r, old := u.a.(*row), u.b.(*rowState)
	r.become(*old)
	if !old.known { // it was written without having been read: what the disk has is not known
		r.shard.remove(r)
	}
}

func (sh *tableShard) get(key string) (*row, error) {
	r := sh.rows[key]
	if r == nil {
		if sh.complete {
			return nil, nil
		}
		value, ok, err := sh.table.task.store.get(append(slices.Clone(sh.table.prefix), key...))
		if err != nil {
			return nil, err
		}
		r = sh.create(key)
		r.become(rowState{value: value, ok: ok, known: true})
		sh.evict(r)
	}
	r.node.used = true
	return r, nil
}

const rowOverhead = 250

func (sh *tableShard) create(key string) *row {
	r := &row{shard: sh, key: key}
	r.node.thing = r
	sh.rows[key] = r
	sh.recency.add(&r.node)
	r.bytes = int64(rowOverhead + 2*len(key))
	sh.table.task.store.cache.add(r.bytes)
	return r
}

func (r *row) become(state rowState) {
	grown := 2 * int64(len(state.value)-len(r.value)) // twice: the decoded form
	r.bytes += grown
	r.shard.table.task.store.cache.add(grown)
	r.rowState = state
}

func (sh *tableShard) evict(keep *row) {
	if cache := sh.table.task.store.cache; cache.exceeded() {
		sh.recency.evict(cache, &keep.node, sh.drop)
	}
}

func (sh *tableShard) drop(r *row) bool {
	if !r.token.done() {
		return false
	}
	if r.ok {
		sh.complete = false
	}
	sh.remove(r)
	sh.table.task.store.counters.evictions.Add(1)
	return true
}

func (sh *tableShard) remove(r *row) {
	sh.recency.remove(&r.node)
	delete(sh.rows, r.key)
	sh.table.task.store.cache.add(-r.bytes)
}

func (sh *tableShard) forget() {
	for _, r := range sh.rows {
		sh.table.task.store.cache.add(-r.bytes)
	}
	clear(sh.rows)
	sh.recency, sh.complete = recency[row]{}, false
}

// warm loads a small table whole; see History.warm.
func (tb *Table) warm() error {
	store := tb.task.store
	store.warming.Lock()
	defer store.warming.Unlock()
	limit := min(store.cache.limit/warmShare, store.cache.limit-store.cache.used.Load())
	if err := failpoint.Hit("store.warm"); err != nil {
		return err
	}
	full := true
	var loaded int64
	err := store.view(func(txn *badger.Txn) error {
		return scan(txn, tb.prefix, nil, func(item *badger.Item) (bool, error) {
			if loaded > limit {
				full = false
				return false, nil
			}
			value, err := valueOf(item)
			if err != nil {
				return false, err
			}
			key := string(item.Key()[len(tb.prefix):])
			r := tb.shards[Shard(key)].create(key)
			r.become(rowState{value: value, ok: true, known: true})
			loaded += r.bytes
			return true, nil
		})
	})
	for i := range tb.shards {
		tb.shards[i].complete = full
	}
	return err
}
