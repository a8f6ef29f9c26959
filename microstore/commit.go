package microstore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"

	"github.com/millrace/millrace/internal/failpoint"
)

// committer turns batches into Badger transactions. Steps of a commit:
//
//  1. Commit queues a request.
//  2. One goroutine (take) gathers the requests that wait, as many as fit into one transaction together,
//     in order. It numbers log chunks and outbox rows and fills the transaction, all while the previous
//     transaction is being written.
//  3. When that one is durable, it hands the new one to Badger.
//  4. A second goroutine (finish) waits for Badger, makes chunks and rows visible, releases the callers.
//
// Invariants: a request is never split; transactions become durable, and visible, in the order of their
// requests; at most one is being written and one being filled.
//
// Rejected: handing a transaction to Badger before its predecessor is durable. Badger groups such writes, but
// when one of them fails it still writes the later ones, and the store would then hold a commit without the
// one before it. Merging requests in step 2 gives the same grouping without that hole.
type committer struct {
	store    *Store
	requests chan *request
	inflight chan *group
	idle     chan struct{} // holds a token while no transaction is being written
	failure  atomic.Pointer[error]

	// spare is a transaction opened before the previous one was committed: opening one later would wait for
	// that commit. It reads nothing. Owned by take.
	spare *badger.Txn
}

const (
	requestWaiting int32 = iota
	requestTaken
	requestGone
)

type request struct {
	batches   []*Batch
	bytes     int
	raw       int
	ops       int
	exclusive func() error // runs while nothing is being written
	state     atomic.Int32
	reply     chan error
}

type group struct {
	requests []*request
	bytes    int
	raw      int
	durable  chan error
}

// maxGroup bounds the requests of one transaction, and with it the latency of the first of them.
const maxGroup = 64

// Commit makes all the batches durable in one Badger transaction, never split, and returns when they are.
// Batches of several callers may go into one transaction. Safe for concurrent use; commits become durable in
// the order in which they were called. The batches must not be used meanwhile.
//
// After ErrTooBig, ErrFull or the context's error nothing has been written and the batches are as they were.
// Any other failure is final for the store: see ErrFailed. A context that ends while the commit is already
// being written has no effect.
func (s *Store) Commit(ctx context.Context, batches ...*Batch) error {
	r := &request{batches: batches, reply: make(chan error, 1)}
	for _, b := range batches {
		if b.err != nil {
			return b.err
		}
		r.bytes += b.bytes
		r.raw += b.raw
		r.ops += len(b.ops)
	}
	if r.bytes > s.maxBatchBytes || r.raw > s.maxRawBytes {
		return fmt.Errorf("%w: %d bytes in %d operations (%d with values), of %d (%d with values)",
			ErrTooBig, r.bytes, r.ops, r.raw, s.maxBatchBytes, s.maxRawBytes)
	}
	return s.submit(ctx, r)
}

// MaxBatchBytes returns what one commit may hold, as Batch.Bytes counts it.
func (s *Store) MaxBatchBytes() int { return s.maxBatchBytes }

// MaxRawBytes returns what one commit may hold, as Batch.RawBytes counts it.
func (s *Store) MaxRawBytes() int { return s.maxRawBytes }

func (s *Store) submit(ctx context.Context, r *request) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.committer.requests <- r:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.reply:
		return err
	case <-ctx.Done():
		if r.state.CompareAndSwap(requestWaiting, requestGone) {
			return ctx.Err()
		}
		return <-r.reply
	}
}

func newCommitter(s *Store) *committer {
	c := &committer{store: s, requests: make(chan *request, maxGroup), inflight: make(chan *group, 1), idle: make(chan struct{}, 1)}
	c.idle <- struct{}{}
	return c
}

// take is the goroutine of steps 2 and 3; it ends when requests is closed and empty.
func (c *committer) take() {
	defer close(c.inflight)
	defer func() { c.discardSpare() }()
	var next *request
	for {
		r := next
		next = nil
		if r == nil {
			var open bool
			if r, open = <-c.requests; !open {
				return
			}
			if !r.state.CompareAndSwap(requestWaiting, requestTaken) {
				continue
			}
		}
		if r.exclusive != nil {
			c.runExclusive(r)
			continue
		}
		g := &group{requests: []*request{r}, bytes: r.bytes, raw: r.raw, durable: make(chan error, 1)}
		next = c.gather(g)
		c.write(g)
	}
}

// gather adds waiting requests to the group; the one that does not fit any more is returned.
func (c *committer) gather(g *group) *request {
	for len(g.requests) < maxGroup {
		select {
		case r, open := <-c.requests:
			if !open {
				return nil
			}
			if !r.state.CompareAndSwap(requestWaiting, requestTaken) {
				continue
			}
			if r.exclusive != nil || g.bytes+r.bytes > c.store.maxBatchBytes || g.raw+r.raw > c.store.maxRawBytes {
				return r
			}
			g.requests, g.bytes, g.raw = append(g.requests, r), g.bytes+r.bytes, g.raw+r.raw
		default:
			return nil
		}
	}
	return nil
}

func (c *committer) write(g *group) {
	if err := c.failed(); err != nil {
		g.answer(err)
		return
	}
	if err := c.store.space.check(g.raw); err != nil {
		g.answer(err)
		return
	}
	if err := failpoint.Hit("store.commit.before"); err != nil {
		g.answer(c.fail(err))
		return
	}
	txn := c.spare
	c.spare = nil
	if txn == nil {
		txn = c.store.db.NewTransaction(true)
	}
	if err := c.fill(txn, g); err != nil {
		txn.Discard()
		g.unassign()
		if !errors.Is(err, badger.ErrTxnTooBig) {
			err = c.fail(err)
		} else {
			err = fmt.Errorf("%w: %d bytes", ErrTooBig, g.bytes)
		}
		g.answer(err)
		return
	}
	<-c.idle
	if err := c.failed(); err != nil {
		txn.Discard()
		g.answer(err)
		c.idle <- struct{}{}
		return
	}
	c.spare = c.store.db.NewTransaction(true)
	txn.CommitWith(func(err error) { g.durable <- err })
	c.inflight <- g
}

// commitKey is written by every commit; see checkFiles.
var commitKey = []byte{spaceSystem, 'c'}

func (c *committer) fill(txn *badger.Txn, g *group) error {
	err := txn.Set(commitKey, nil)
	if err != nil {
		return err
	}
	for _, r := range g.requests {
		for _, b := range r.batches {
			b.assign()
			if err := b.fill(txn); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish is the goroutine of step 4; it ends when inflight is closed and empty.
func (c *committer) finish() {
	for g := range c.inflight {
		err := <-g.durable
		if err == nil {
			c.store.counters.commits.Add(1)
			c.store.counters.merged.Add(int64(len(g.requests) - 1))
			g.publish()
			err = failpoint.Hit("store.commit.after")
		}
		if err != nil {
			err = c.fail(err)
		}
		c.idle <- struct{}{}
		g.answer(err)
	}
}

func (c *committer) runExclusive(r *request) {
	<-c.idle
	defer func() { c.idle <- struct{}{} }()
	c.discardSpare()
	if err := c.failed(); err != nil {
		r.reply <- err
		return
	}
	r.reply <- r.exclusive()
}

// discardSpare lets go of the spare transaction, which holds back the removal of what was deleted since.
func (c *committer) discardSpare() {
	if c.spare != nil {
		c.spare.Discard()
		c.spare = nil
	}
}

func (c *committer) failed() error {
	if err := c.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// fail makes the failure stick; the first one stays.
func (c *committer) fail(cause error) error {
	err := fmt.Errorf("%w: commit: %w: close the store at %s and open it again", ErrFailed, cause, c.store.place())
	if c.failure.CompareAndSwap(nil, &err) {
		c.store.log.Error("microstore: store has failed", "store", c.store.place(), "cause", cause)
	}
	return c.failed()
}

func (g *group) answer(err error) {
	for _, r := range g.requests {
		r.reply <- err
	}
}

func (g *group) unassign() {
	for i := len(g.requests) - 1; i >= 0; i-- {
		batches := g.requests[i].batches
		for j := len(batches) - 1; j >= 0; j-- {
			batches[j].unassign()
		}
	}
}

func (g *group) publish() {
	for _, r := range g.requests {
		for _, b := range r.batches {
			for i := range b.ops {
				if late := b.ops[i].late; late != nil {
					late.publish()
				}
			}
			b.token.committed.Store(true)
			b.spend()
		}
	}
}

func (b *Batch) assign() {
	for i := range b.ops {
		if b.ops[i].kind == opLate {
			b.ops[i].key = b.ops[i].late.assign()
		}
	}
}

func (b *Batch) unassign() {
	for i := len(b.ops) - 1; i >= 0; i-- {
		if b.ops[i].kind == opLate && b.ops[i].key != nil {
			b.ops[i].late.unassign()
			b.ops[i].key = nil
		}
	}
}
