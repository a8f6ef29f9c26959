package inbox

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
)

// Func handles a message: what it does in tx takes effect once. It must not commit or roll back tx, nor touch the
// database otherwise; it may be called again for the same message after an error, its own or another's of the batch.
type Func func(ctx context.Context, tx *sql.Tx, r framework.Record) error

// BatchFunc is a Func for several messages, in order, for instance to write them with one statement. It is called again
// with one at a time when it fails.
type BatchFunc func(ctx context.Context, tx *sql.Tx, records []framework.Record) error

// sqlForm is a form in an SQL database.
type sqlForm interface {
	form
	// claim marks messages as processed in tx, and returns those that are new, in the order of entries. It refuses, in b,
	// those that cannot be handled after all; what is in neither is a duplicate.
	claim(ctx context.Context, tx *sql.Tx, entries []entry, b *batch) (todo []entry, err error)
	explain(err error) error
}

// Handler runs a Func in transactions that hold the processed messages too. Safe for concurrent use.
type Handler struct {
	form   sqlForm
	db     *sql.DB
	handle BatchFunc
	counts
}

// Handler makes a Handler of a Func.
func (b *Inbox) Handler(db *sql.DB, handle Func) *Handler {
	return b.BatchHandler(db, oneByOne(handle))
}

// BatchHandler makes a Handler of a BatchFunc.
func (b *Inbox) BatchHandler(db *sql.DB, handle BatchFunc) *Handler {
	return &Handler{form: b, db: db, handle: handle}
}

func oneByOne(handle Func) BatchFunc {
	return func(ctx context.Context, tx *sql.Tx, records []framework.Record) error {
		for i := range records {
			if err := handle(ctx, tx, records[i]); err != nil {
				return err
			}
		}
		return nil
	}
}

// Handle handles one message, unless it was handled before: that is no error. After an error nothing has happened, but for
// one of the commit itself: then it has or has not, and handling it again is right in both cases.
func (h *Handler) Handle(ctx context.Context, r framework.Record) error {
	return single(h.HandleBatch(ctx, []framework.Record{r}))
}

func single(result Result, err error) error {
	if err == nil && len(result.Failed) > 0 {
		err = result.Failed[0].Err
	}
	return err
}

// HandleBatch handles messages in one transaction, in order, without those that were handled before.
//
// When the handler fails, the transaction is rolled back and run again with a savepoint for each message, so that those
// that fail do not take the others with them; later ones of the same key go on too, unless the messages are known by their
// numbers. After an error that HandleBatch itself returns, nothing has happened (or all, if it is one of the commit), and
// the batch can be handled again.
func (h *Handler) HandleBatch(ctx context.Context, records []framework.Record) (Result, error) {
	b, entries := newBatch(h.form, records)
	if len(entries) > 0 {
		done, err := h.together(ctx, b.clone(), entries)
		var failed handlerError
		if errors.As(err, &failed) && ctx.Err() == nil {
			if len(entries) > 1 {
				done, err = h.apart(ctx, b.clone(), entries)
			} else {
				done, err = b, nil
				done.fail(entries[0], failed.error)
			}
		}
		if err != nil {
			return Result{}, err
		}
		b = done
	}
	h.add(b)
	return b.result(), nil
}

// together handles all in one go.
func (h *Handler) together(ctx context.Context, b *batch, entries []entry) (*batch, error) {
	return b, h.inTx(ctx, func(tx *sql.Tx) error {
		before := len(b.refused)
		todo, err := h.form.claim(ctx, tx, entries, b)
		if err != nil {
			return err
		}
		if len(todo) > 0 {
			if err := failpoint.Hit("inbox.handle"); err != nil {
				return err
			}
			if err := h.handle(ctx, tx, recordsOf(todo)); err != nil {
				return handlerError{err}
			}
		}
		b.applied += len(todo)
		b.duplicates += len(entries) - len(todo) - (len(b.refused) - before)
		return nil
	})
}

// apart handles each message under a savepoint of its own.
func (h *Handler) apart(ctx context.Context, b *batch, entries []entry) (*batch, error) {
	return b, h.inTx(ctx, func(tx *sql.Tx) error {
		for _, e := range entries {
			err := h.one(ctx, tx, b, e)
			var failed handlerError
			if errors.As(err, &failed) {
				b.fail(e, failed.error)
			} else if err != nil {
				return err
			}
		}
		return nil
	})
}

func (h *Handler) one(ctx context.Context, tx *sql.Tx, b *batch, e entry) error {
	run := func(statement string) error {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("inbox: %s: %w", statement, err)
		}
		return nil
	}
	if err := run("SAVEPOINT millrace_message"); err != nil {
		return err
	}
	before := len(b.refused)
	todo, err := h.form.claim(ctx, tx, []entry{e}, b)
	switch {
	case err != nil:
		return err
	case len(todo) > 0:
		if err := h.handle(ctx, tx, recordsOf(todo)); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			// It fails when the database has ended the transaction by itself, after a deadlock for instance.
			if err := cmp.Or(run("ROLLBACK TO SAVEPOINT millrace_message"), run("RELEASE SAVEPOINT millrace_message")); err != nil {
				return err
			}
			return handlerError{err}
		}
		b.applied++
	case len(b.refused) == before:
		b.duplicates++
	}
	return run("RELEASE SAVEPOINT millrace_message")
}

func (h *Handler) inTx(ctx context.Context, work func(*sql.Tx) error) error {
	tx, err := h.db.BeginTx(ctx, nil)
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
		return fmt.Errorf("inbox: commit: %w", h.form.explain(err))
	}
	return failpoint.Hit("inbox.commit.after")
}
