package microstore

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// Processed remembers the ids of what a task has processed, the newest of them, in the order in which they were
// added. It is how a record that a source without positions delivers again is known.
//
// It goes by the order of processing and by nothing else. Event time says nothing about when a broker delivers again:
// a backlog of years that is read in a minute would have forgotten its ids by then. And a bound by wall time would
// make what is a duplicate depend on how long the process was down.
//
// What one Add has is one write, and one delete once the bound is reached. All ids are in memory, as hashes of 16
// bytes, so Has does not read the disk.
//
// Not safe for concurrent use.
type Processed struct {
	task   *Task
	prefix []byte
	limit  int
	ids    map[processedID]struct{}
	chunks []processedChunk // oldest first
	next   uint64
}

// processedID is a hash of an id, long enough for two ids never to share one.
type processedID [16]byte

type processedChunk struct {
	number uint64
	ids    []byte // one after the other
}

func (c processedChunk) count() int { return len(c.ids) / len(processedID{}) }

func (c processedChunk) each(do func(processedID)) {
	for rest := c.ids; len(rest) > 0; rest = rest[len(processedID{}):] {
		do(processedID(rest))
	}
}

// processedMemory is about what an id takes in memory: in its chunk and in the map.
const processedMemory = 64

// forgetMore is how many chunks an Add forgets beyond the ids that it brings: when the limit is lowered, what is over
// it goes little by little, and not in a transaction that does not hold it.
const forgetMore = 64

// Processed returns the named ids of the task, made when they are not there. It keeps at least the newest limit of them,
// and at most those of one Add more; after a lower limit more for a while. Calling it again returns the same, with the new limit.
func (t *Task) Processed(name string, limit int) (*Processed, error) {
	if err := checkName("list of processed ids", name); err != nil {
		return nil, err
	}
	if limit < 1 {
		return nil, fmt.Errorf("microstore: processed ids %s of task %s: limit is %d; it must be at least 1", name, t.name, limit)
	}
	t.parts.Lock()
	defer t.parts.Unlock()
	if p := t.processed[name]; p != nil {
		p.limit = limit
		return p, t.store.alive()
	}
	number, err := t.number(kindProcessed, name)
	if err != nil {
		return nil, err
	}
	p := &Processed{task: t, prefix: t.key(partProcessed, number), limit: limit, ids: map[processedID]struct{}{}}
	if err := p.load(); err != nil {
		return nil, err
	}
	t.processed[name] = p
	return p, nil
}

func (p *Processed) load() error {
	return p.task.store.view(func(txn *badger.Txn) error {
		return scan(txn, p.prefix, nil, func(item *badger.Item) (bool, error) {
			ids, err := valueOf(item)
			if err != nil {
				return false, err
			}
			number, ok := processedNumber(item.Key()[len(p.prefix):], ids)
			if !ok {
				return false, readError(errMalformed)
			}
			p.push(processedChunk{number, ids})
			return true, nil
		})
	})
}

// processedNumber reads the rest of a chunk's key; not ok when it, or the value, has not the right form.
func processedNumber(rest, value []byte) (number uint64, ok bool) {
	if len(rest) != 8 || len(value)%len(processedID{}) != 0 {
		return 0, false
	}
	return binary.BigEndian.Uint64(rest), true
}

// Len returns the number of ids that are remembered.
func (p *Processed) Len() int { return len(p.ids) }

// Has tells whether an id was added and is remembered.
func (p *Processed) Has(id string) bool {
	_, ok := p.ids[hashProcessed(id)]
	return ok
}

func hashProcessed(id string) processedID {
	sum := sha256.Sum256([]byte(id))
	return processedID(sum[:])
}

// Add remembers ids that Has does not know, each once, and forgets the oldest beyond the limit.
func (p *Processed) Add(b *Batch, ids ...string) {
	if len(ids) == 0 {
		return
	}
	c := processedChunk{p.next, make([]byte, 0, len(ids)*len(processedID{}))}
	for _, id := range ids {
		hash := hashProcessed(id)
		c.ids = append(c.ids, hash[:]...)
	}
	b.set(p.chunkKey(b, c.number), c.ids)
	p.push(c)
	b.onRollback(undo{do: undoProcessedAdd, a: p})
	for range len(ids) + forgetMore {
		if len(p.chunks) == 1 || len(p.ids)-p.chunks[0].count() < p.limit {
			break
		}
		oldest := p.shift()
		b.delete(p.chunkKey(b, oldest.number))
		b.onRollback(undo{do: undoProcessedForget, a: p, b: oldest})
	}
}

func (p *Processed) chunkKey(b *Batch, number uint64) []byte {
	key := append(b.space(len(p.prefix)+8), p.prefix...)
	return b.keep(binary.BigEndian.AppendUint64(key, number))
}

func (p *Processed) push(c processedChunk) {
	p.chunks = append(p.chunks, c)
	p.next = c.number + 1
	p.remember(c)
}

func (p *Processed) shift() processedChunk {
	c := p.chunks[0]
	p.chunks[0] = processedChunk{}
	p.chunks = p.chunks[1:]
	p.forgetChunk(c)
	return c
}

func (p *Processed) remember(c processedChunk) {
	c.each(func(id processedID) { p.ids[id] = struct{}{} })
	p.task.store.cache.add(int64(c.count()) * processedMemory)
}

func (p *Processed) forgetChunk(c processedChunk) {
	c.each(func(id processedID) { delete(p.ids, id) })
	p.task.store.cache.add(-int64(c.count()) * processedMemory)
}

func undoProcessedAdd(u *undo) {
	p := u.a.(*Processed)
	last := len(p.chunks) - 1
	c := p.chunks[last]
	p.chunks = p.chunks[:last]
	p.next = c.number
	p.forgetChunk(c)
}

func undoProcessedForget(u *undo) {
	p, c := u.a.(*Processed), u.b.(processedChunk)
	p.chunks = append([]processedChunk{c}, p.chunks...)
	p.remember(c)
}

// forget gives the memory back.
func (p *Processed) forget() {
	for len(p.chunks) > 0 {
		p.shift()
	}
}
