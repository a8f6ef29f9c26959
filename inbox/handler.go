package inbox

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
)

// Func handles a message: what it does in tx takes effect once. It must not commit or roll back tx, nor touch the
// database otherwise; it may be called again for the same message after an error, its own or another's of the batch.
type Func func(ctx context.Context, tx *sql.Tx, r framework.Record) error

// BatchFunc is a Func for several messages, in order, for instance to write them with one statement. It is called again
// with one at a time when it fails.
type BatchFunc func(ctx context.Context, tx *sql.Tx, records []framework.Record) error

// Handler runs a Func in transactions that hold the processed messages too. Safe for concurrent use.
type Handler struct {
	inbox  *Inbox
	db     *sql.DB
	handle BatchFunc
	counts struct{ applied, duplicates, refused, failed atomic.Int64 }
}

// Handler makes a Handler of a Func.
func (b *Inbox) Handler(db *sql.DB, handle Func) *Handler {
	return b.BatchHandler(db, func(ctx context.Context, tx *sql.Tx, records []framework.Record) error {
		for i := range records {
			if err := handle(ctx, tx, records[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// BatchHandler makes a Handler of a BatchFunc.
func (b *Inbox) BatchHandler(db *sql.DB, handle BatchFunc) *Handler {
	return &Handler{inbox: b, db: db, handle: handle}
}

// Result is what became of a batch. What is not in Failed can be acknowledged: it is applied, now or before. Failed holds
// what was refused, too.
type Result struct {
	// Applied messages were handled and committed now, Duplicates before, or earlier in the batch.
	Applied, Duplicates int
	// Failed are the others, in the order of the batch.
	Failed []Failure
}

// Failure is a message that left nothing behind. Err is of the handler, or wraps ErrTooOld or ErrNoID.
type Failure struct {
	Index int // in the batch
	ID    string
	Err   error
}

// Counts are the messages of a Handler since it was made.
type Counts struct{ Applied, Duplicates, Refused, Failed int64 }

// Counts may be called at any time. Refused are messages that were too old or without an id; Failed counts attempts.
func (h *Handler) Counts() Counts {
	c := &h.counts
	return Counts{c.applied.Load(), c.duplicates.Load(), c.refused.Load(), c.failed.Load()}
}

// Handle handles one message, unless it was handled before: that is no error. After an error nothing has happened, but for
// one of the commit itself: then it has or has not, and handling it again is right in both cases.
func (h *Handler) Handle(ctx context.Context, r framework.Record) error {
	result, err := h.HandleBatch(ctx, []framework.Record{r})
	if err == nil && len(result.Failed) > 0 {
		err = result.Failed[0].Err
	}
	return err
}

// HandleBatch handles messages in one transaction, in order, without those that were handled before.
//
// When the handler fails, the transaction is rolled back and run again with a savepoint for each message, so that those
// that fail do not take the others with them; later ones of the same key go on too. After an error that HandleBatch itself returns, nothing has happened (or
// all, if it is one of the commit), and the batch can be handled again.
func (h *Handler) HandleBatch(ctx context.Context, records []framework.Record) (Result, error) {
	var result Result
	claims := make([]claim, 0, len(records))
	index := make(map[string]int, len(records)) // of the first of each id
	for i := range records {
		millis, err := h.inbox.check(&records[i])
		if err != nil {
			result.Failed = append(result.Failed, Failure{i, records[i].ID, err})
			h.counts.refused.Add(1)
			continue
		}
		if _, ok := index[records[i].ID]; ok {
			result.Duplicates++
			continue
		}
		index[records[i].ID] = i
		claims = append(claims, claim{records[i].ID, millis})
	}
	if len(claims) == 0 {
		h.counts.duplicates.Add(int64(result.Duplicates))
		return result, nil
	}
	b := batch{handler: h, records: records, claims: claims, index: index}
	err := b.together(ctx)
	var failed handlerError
	if errors.As(err, &failed) && ctx.Err() == nil {
		if len(claims) > 1 {
			err = b.apart(ctx)
		} else {
			b.failed = []Failure{{index[claims[0].id], claims[0].id, failed.error}}
			err = nil
		}
	}
	if err != nil {
		return Result{}, err
	}
	result.Applied, result.Failed = b.applied, merge(result.Failed, b.failed)
	result.Duplicates += len(claims) - b.applied - len(b.failed)
	h.counts.applied.Add(int64(result.Applied))
	h.counts.duplicates.Add(int64(result.Duplicates))
	h.counts.failed.Add(int64(len(b.failed)))
	return result, nil
}

// merge puts failures in the order of the batch.
func merge(a, b []Failure) []Failure {
	var all []Failure
	for len(a) > 0 && len(b) > 0 {
		if a[0].Index < b[0].Index {
			all, a = append(all, a[0]), a[1:]
		} else {
			all, b = append(all, b[0]), b[1:]
		}
	}
	return append(append(all, a...), b...)
}

// handlerError is an error of the user's function, as opposed to one of the inbox.
type handlerError struct{ error }

func (e handlerError) Unwrap() error { return e.error }

// batch is one HandleBatch.
type batch struct {
	handler *Handler
	records []framework.Record
	claims  []claim
	index   map[string]int
	applied int
	failed  []Failure
}

// together handles all in one go.
func (b *batch) together(ctx context.Context) error {
	return b.inTx(ctx, func(tx *sql.Tx) error {
		fresh, err := b.handler.inbox.claimAll(ctx, tx, append([]claim(nil), b.claims...))
		if err != nil {
			return err
		}
		var todo []framework.Record
		for _, c := range b.claims { // in the order of the batch
			if fresh[c.id] {
				todo = append(todo, b.records[b.index[c.id]])
			}
		}
		if len(todo) > 0 {
			if err := failpoint.Hit("inbox.handle"); err != nil {
				return err
			}
			if err := b.handler.handle(ctx, tx, todo); err != nil {
				return handlerError{err}
			}
		}
		b.applied = len(todo)
		return nil
	})
}

// apart handles each message under a savepoint of its own.
func (b *batch) apart(ctx context.Context) error {
	return b.inTx(ctx, func(tx *sql.Tx) error {
		b.applied, b.failed = 0, nil
		for _, c := range b.claims {
			applied, err := b.one(ctx, tx, c)
			var failed handlerError
			switch {
			case errors.As(err, &failed):
				b.failed = append(b.failed, Failure{b.index[c.id], c.id, failed.error})
			case err != nil:
				return err
			case applied:
				b.applied++
			}
		}
		return nil
	})
}

func (b *batch) one(ctx context.Context, tx *sql.Tx, c claim) (applied bool, err error) {
	run := func(statement string) error {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("inbox: %s: %w", statement, err)
		}
		return nil
	}
	if err := run("SAVEPOINT millrace_message"); err != nil {
		return false, err
	}
	fresh, err := b.handler.inbox.claimAll(ctx, tx, []claim{c})
	if err != nil {
		return false, err
	}
	if fresh[c.id] {
		if err := b.handler.handle(ctx, tx, []framework.Record{b.records[b.index[c.id]]}); err != nil {
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			// It fails when the database has ended the transaction by itself, after a deadlock for instance.
			if err := cmp.Or(run("ROLLBACK TO SAVEPOINT millrace_message"), run("RELEASE SAVEPOINT millrace_message")); err != nil {
				return false, err
			}
			return false, handlerError{err}
		}
	}
	return fresh[c.id], run("RELEASE SAVEPOINT millrace_message")
}

func (b *batch) inTx(ctx context.Context, work func(*sql.Tx) error) error {
	tx, err := b.handler.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("inbox: begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	if err := work(tx); err != nil {
		return err
	}
	if err := failpoint.Hit("inbox.commit.before"); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("inbox: commit: %w", b.handler.inbox.explain(err))
	}
	return failpoint.Hit("inbox.commit.after")
}
