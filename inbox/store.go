package inbox

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
)

// Store is an inbox for a handler whose state is in a microstore.Store: histories, tables, logs. A batch of the store
// holds what the handler does together with the processed messages, and is committed as one.
//
// Parts of a microstore have no locks. So a Store runs one handler at a time, and what else looks at the parts that the
// handler uses does so in Do. Where that is too slow, give each partition of a topic a Store and parts of its own; they
// run side by side, and their commits are gathered.
//
// Make one Store for each subscriber of a microstore. Safe for concurrent use.
type Store struct {
	store *microstore.Store
	form  storeForm
	lock  sync.Mutex // of the form's parts, and of the handler's
}

// storeForm is a form in a microstore.
type storeForm interface {
	form
	// claim marks a message as processed, and reports whether that is new. It refuses messages by errors of this package
	// that say so; others are of the store.
	claim(b *microstore.Batch, e entry) (fresh bool, err error)
	// clean removes what is not needed any more, as much as goes with a commit of n messages.
	clean(b *microstore.Batch, n int) error
}

// InStore opens the inbox of a subscriber in a microstore, or makes it. Config.Name is the beginning of the name of the
// task that it is in; the default is "millrace_inbox". What is older than Config.Retention is removed with the commits of
// later messages, so there is nothing to purge.
func InStore(store *microstore.Store, subscriber string, config Config) (*Store, error) {
	if err := joined(checkStore(store), config.Validate(), checkName("subscriber", subscriber)); err != nil {
		return nil, err
	}
	config = config.WithDefaults()
	task, err := store.Task(config.Name + "/" + subscriber)
	if err != nil {
		return nil, fmt.Errorf("inbox: %w", err)
	}
	ids, err := task.History("processed", microstore.HistoryConfig{})
	if err != nil {
		return nil, fmt.Errorf("inbox: %w", err)
	}
	return &Store{store: store, form: &storeIDs{config, ids}}, nil
}

// MarksInStore opens the marks of a subscriber for a producer in a microstore, or makes them. What Marks and NewMarks say
// goes for them too. MarksConfig.Name is the beginning of the name of the task that they are in; the default is
// "millrace_marks".
func MarksInStore(store *microstore.Store, subscriber, producer string, config MarksConfig) (*Store, error) {
	n, err := newNumbers(subscriber, producer, config)
	if err := joined(checkStore(store), err); err != nil {
		return nil, err
	}
	task, err := store.Task(n.config.Name + "/" + subscriber)
	if err != nil {
		return nil, fmt.Errorf("inbox: %w", err)
	}
	table, err := task.Table(producer)
	if err != nil {
		return nil, fmt.Errorf("inbox: %w", err)
	}
	return &Store{store: store, form: &storeMarks{n, table}}, nil
}

func checkStore(store *microstore.Store) error {
	if store == nil {
		return errors.New("the microstore is nil")
	}
	return nil
}

// Do calls f while no handler runs: it may look at the parts that handlers use.
func (s *Store) Do(f func() error) error {
	s.lock.Lock()
	defer s.lock.Unlock()
	return f()
}

// Claim marks a message as processed in a batch of the caller's, and reports whether that is new. Not new: it was handled,
// there is nothing to do. The error wraps ErrTooOld, ErrNoID, ErrNoSequence or ErrRestarted where the message is to blame;
// the batch can go on then. The caller holds the lock, by calling Do around all that goes into the batch, its commit or
// rollback included.
func (s *Store) Claim(b *microstore.Batch, r framework.Record) (fresh bool, err error) {
	number, err := s.form.check(&r)
	if err != nil {
		return false, err
	}
	return s.form.claim(b, entry{record: &r, number: number})
}

// storeIDs has a history for each id, in which there is one entry, at the time of the message. Of a history that was
// evicted from memory the store remembers that there is something, so a new id seldom costs a look at the disk.
type storeIDs struct {
	Config
	ids *microstore.History
}

func (f *storeIDs) order(*framework.Record) string { return "" }

func (f *storeIDs) floor() int64 { return f.Now().Add(-f.Retention).UnixNano() }

func (f *storeIDs) claim(b *microstore.Batch, e entry) (fresh bool, err error) {
	at := e.record.Time
	if at.IsZero() {
		at = f.Now()
	}
	id := e.record.ID
	fresh, err = f.ids.Append(b, id, "", &microstore.Entry{Time: at.UnixNano(), ID: id}, f.floor())
	if errors.Is(err, microstore.ErrExpired) { // the clock has gone back since the last clean
		return false, fmt.Errorf("%w: %q", ErrTooOld, id)
	}
	if err != nil {
		return false, fmt.Errorf("inbox: claim %q: %w", id, err)
	}
	return fresh, nil
}

// cleanMore is how many ids a commit looks at beyond four for each message, to remove those that are too old.
const cleanMore = 64

func (f *storeIDs) clean(b *microstore.Batch, n int) error {
	if _, err := f.ids.Sweep(b, f.floor(), 4*n+cleanMore); err != nil {
		return fmt.Errorf("inbox: remove what is too old: %w", err)
	}
	return nil
}

// storeMarks has a row for each source and key.
type storeMarks struct {
	numbers
	table *microstore.Table
}

func (f *storeMarks) claim(b *microstore.Batch, e entry) (fresh bool, err error) {
	key := f.order(e.record)
	value, _, ok, err := f.table.Get(key)
	if err != nil {
		return false, fmt.Errorf("inbox: claim %q: %w", e.record.ID, err)
	}
	at := noMark
	if ok {
		if at, err = decodeMark(value); err != nil {
			return false, fmt.Errorf("inbox: claim %q: %w", e.record.ID, err)
		}
	}
	if fresh, err = f.judge(at, e); err != nil || !fresh {
		return false, err
	}
	if err := f.table.Set(b, key, encodeMark(f.next(e)), nil); err != nil {
		return false, fmt.Errorf("inbox: claim %q: %w", e.record.ID, err)
	}
	return true, nil
}

func (f *storeMarks) clean(*microstore.Batch, int) error { return nil }

func encodeMark(m mark) []byte {
	value := binary.BigEndian.AppendUint64(make([]byte, 0, 16+len(m.id)), uint64(m.number))
	return append(binary.BigEndian.AppendUint64(value, uint64(m.handled)), m.id...)
}

func decodeMark(value []byte) (mark, error) {
	if len(value) < 16 {
		return mark{}, fmt.Errorf("%w: a mark of %d bytes", microstore.ErrDamaged, len(value))
	}
	return mark{
		number: int64(binary.BigEndian.Uint64(value)), handled: int64(binary.BigEndian.Uint64(value[8:])), id: string(value[16:]),
	}, nil
}

type batchKey struct{}

// BatchOf returns the batch of a message under Store.Middleware, for the handler's writes.
func BatchOf(ctx context.Context) (*microstore.Batch, bool) {
	b, ok := ctx.Value(batchKey{}).(*microstore.Batch)
	return b, ok
}
