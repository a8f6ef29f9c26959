package microstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Store is one database. Safe for concurrent use; its parts say for themselves what they allow.
type Store struct {
	cfg            Config
	db             *badger.DB
	lock           *os.File
	log            *slog.Logger
	committer      *committer
	space          *diskSpace
	cache          *budget
	tail           *budget
	now            func() time.Time
	valueThreshold int
	maxBatchBytes  int
	maxRawBytes    int
	counters       counters
	warming        sync.Mutex   // each warm sees what those before it have taken of the budget
	warmed         atomic.Int64 // entries looked at by warm
	histories      atomic.Int64 // open histories of all tasks

	life struct {
		sync.Mutex
		users  int
		closed bool
		empty  *sync.Cond
	}
	closing   chan struct{} // closed when Close begins
	closeOnce sync.Once
	closeErr  error
	owned     sync.WaitGroup // committer, finisher, maintenance

	names    sync.Mutex // creation of tasks, logs, outboxes and their parts
	tasks    map[string]*Task
	logs     map[string]*Log
	outboxes map[string]*Outbox

	// rewriting keeps garbage collection, which writes live values again, and the dropping of slices apart: a
	// value that is dropped between its being found alive and its being written would come back.
	rewriting    sync.Mutex
	removedBlobs atomic.Int64 // bytes of large values removed since the last garbage collection
}

// enter counts a user of the database; Close waits for all of them.
func (s *Store) enter() error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.life.closed {
		return ErrClosed
	}
	s.life.users++
	return nil
}

func (s *Store) leave() {
	s.life.Lock()
	s.life.users--
	if s.life.users == 0 {
		s.life.empty.Broadcast()
	}
	s.life.Unlock()
}

// view runs fn on a read-only transaction that sees every commit so far; it waits for one that is being
// written.
func (s *Store) view(fn func(*badger.Txn) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	return fn(txn)
}

// Close ends the store: it waits for commits and reads that have begun and for its own goroutines, then
// closes the database. It may be called more than once.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		close(s.closing)
		s.life.Lock()
		s.life.closed = true
		for s.life.users > 0 {
			s.life.empty.Wait()
		}
		s.life.Unlock()
		close(s.committer.requests)
		s.owned.Wait()
		var err error
		if s.lock == nil {
			err = s.db.Close()
		} else {
			err = errors.Join(s.seal(), s.db.Close(), s.lock.Close())
		}
		if err != nil {
			s.closeErr = fmt.Errorf("microstore: close %s: %w", s.place(), err)
		}
	})
	return s.closeErr
}

// Get returns the named value that was put and committed last.
func (s *Store) Get(name string) (value []byte, ok bool, err error) {
	if err := checkName("value", name); err != nil {
		return nil, false, err
	}
	return s.get(append([]byte{spaceValues}, name...))
}

func (s *Store) get(key []byte) (value []byte, ok bool, err error) {
	err = s.view(func(txn *badger.Txn) error {
		value, ok, err = read(txn, key)
		return err
	})
	return value, ok, err
}

func read(txn *badger.Txn, key []byte) (value []byte, ok bool, err error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, false, nil
	}
	if err == nil {
		value, err = valueOf(item)
	}
	if err != nil {
		return nil, false, err
	}
	return value, true, nil
}

// valueOf copies the value of an item. Badger logs that a large value cannot be read, or does not match its
// checksum, and then returns an empty one without an error; but the value's size is in the key's entry.
func valueOf(item *badger.Item) ([]byte, error) {
	value, err := item.ValueCopy(nil)
	if err == nil && len(value) == 0 && item.ValueSize() > 0 {
		err = fmt.Errorf("the value of key %x is missing or altered in the value log", item.Key())
	}
	if err != nil {
		return nil, readError(err)
	}
	return value, nil
}

// readError is what a failed read is reported as: the database's files are open and mapped, so what goes
// wrong while reading is what is in them.
func readError(err error) error { return fmt.Errorf("%w: read: %w", ErrDamaged, err) }

// scan visits the keys with the prefix from start on (nil: the first), in order, until visit returns false.
// Without values, Item.Value must not be called on large ones: it would read them one by one.
func scan(txn *badger.Txn, prefix, start []byte, visit func(*badger.Item) (bool, error)) error {
	opts := badger.DefaultIteratorOptions
	opts.PrefetchValues = false // prefetching starts a goroutine for each value
	opts.Prefix = prefix
	it := txn.NewIterator(opts)
	defer it.Close()
	if start == nil {
		start = prefix
	}
	for it.Seek(start); it.Valid(); it.Next() {
		if more, err := visit(it.Item()); err != nil || !more {
			return err
		}
	}
	return nil
}

// apply commits what edit queues.
func (s *Store) apply(edit func(*Batch)) error {
	b := s.NewBatch()
	edit(b)
	err := s.Commit(context.Background(), b)
	if err != nil && len(b.undo) > 0 {
		b.Rollback(Mark{})
	}
	return err
}

// kinds of names
const (
	kindTask      byte = 't'
	kindLog       byte = 'l'
	kindOutbox    byte = 'o'
	kindHistory   byte = 'h'
	kindTable     byte = 'b'
	kindProcessed byte = 'p'
)

// id returns the number of a name, giving it the next one when it is new. The counter is the value of the
// kind's empty name. Callers hold s.names.
func (s *Store) id(space []byte, kind byte, name string) (uint32, error) {
	counter := append(slices.Clone(space), kind)
	key := append(slices.Clone(counter), name...)
	value, ok, err := s.get(key)
	if err != nil {
		return 0, err
	}
	if ok {
		return binary.BigEndian.Uint32(value), nil
	}
	last, ok, err := s.get(counter)
	if err != nil {
		return 0, err
	}
	id := uint32(1)
	if ok {
		id = binary.BigEndian.Uint32(last) + 1
	}
	value = binary.BigEndian.AppendUint32(nil, id)
	return id, s.apply(func(b *Batch) {
		b.set(counter, value)
		b.set(key, value)
	})
}

// named lists the names of a kind, sorted.
func (s *Store) named(space []byte, kind byte) ([]string, error) {
	prefix := append(slices.Clone(space), kind)
	var names []string
	err := s.view(func(txn *badger.Txn) error {
		return scan(txn, prefix, nil, func(item *badger.Item) (bool, error) {
			if name := string(item.Key()[len(prefix):]); name != "" {
				names = append(names, strings.Clone(name))
			}
			return true, nil
		})
	})
	return names, err
}

// place names the store in messages.
func (s *Store) place() string {
	if s.cfg.InMemory {
		return "memory"
	}
	return s.cfg.Dir
}
