package inbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/microstore"
)

// StoreFunc handles a message: what it writes into b takes effect once. It must neither commit b nor roll it back to before
// what it found; it may be called again for the same message after an error, its own or another's of the batch.
type StoreFunc func(ctx context.Context, b *microstore.Batch, r framework.Record) error

// StoreBatchFunc is a StoreFunc for several messages, in order.
type StoreBatchFunc func(ctx context.Context, b *microstore.Batch, records []framework.Record) error

// StoreHandler runs a StoreFunc in batches that hold the processed messages too. Safe for concurrent use.
type StoreHandler struct {
	store  *Store
	handle StoreBatchFunc
	counts
}

// Handler makes a StoreHandler of a StoreFunc.
func (s *Store) Handler(handle StoreFunc) *StoreHandler {
	return s.BatchHandler(func(ctx context.Context, b *microstore.Batch, records []framework.Record) error {
		for i := range records {
			if err := handle(ctx, b, records[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// BatchHandler makes a StoreHandler of a StoreBatchFunc.
func (s *Store) BatchHandler(handle StoreBatchFunc) *StoreHandler {
	return &StoreHandler{store: s, handle: handle}
}

// Handle handles one message, unless it was handled before: that is no error. After an error nothing has happened; where
// it is the store's (microstore.ErrFailed), open the store again and handle the message again.
func (h *StoreHandler) Handle(ctx context.Context, r framework.Record) error {
	return single(h.HandleBatch(ctx, []framework.Record{r}))
}

// HandleBatch handles messages in one commit, in order, without those that were handled before.
//
// When the handler fails, or what it writes does not fit into a commit, all is taken back and each half of the batch is
// run by itself, and so on, so that those that fail do not take the others with them; later ones of the same key go on
// too, unless the messages are known by their numbers. After an error that HandleBatch itself returns, some of the batch
// may have been committed, each message wholly, and the batch can be handled again.
func (h *StoreHandler) HandleBatch(ctx context.Context, records []framework.Record) (Result, error) {
	h.store.lock.Lock()
	defer h.store.lock.Unlock()
	b, entries := newBatch(h.store.form, records)
	err := h.run(ctx, b, entries)
	h.add(b)
	if err != nil {
		return Result{}, err
	}
	return b.result(), nil
}

func (h *StoreHandler) run(ctx context.Context, b *batch, entries []entry) error {
	if len(entries) == 0 {
		return nil
	}
	attempt := b.clone()
	err := h.attempt(ctx, attempt, entries)
	var failed handlerError
	switch {
	case err == nil:
		*b = *attempt
		return nil
	case !errors.As(err, &failed) || ctx.Err() != nil:
		return err
	case len(entries) == 1:
		b.fail(entries[0], failed.error)
		return nil
	}
	half := len(entries) / 2
	if err := h.run(ctx, b, entries[:half]); err != nil {
		return err
	}
	return h.run(ctx, b, entries[half:])
}

// attempt handles messages in one commit. When it does not come to that, for a panic of the handler too, nothing of it
// stays in memory either.
func (h *StoreHandler) attempt(ctx context.Context, b *batch, entries []entry) (err error) {
	writes := h.store.store.NewBatch()
	committed := false
	defer func() {
		if !committed {
			writes.Rollback(microstore.Mark{})
		}
	}()
	todo, err := h.claim(b, writes, entries)
	if err != nil {
		return err
	}
	if len(todo) == 0 {
		return nil
	}
	if err := failpoint.Hit("inbox.handle"); err != nil {
		return err
	}
	if err := h.handle(ctx, writes, recordsOf(todo)); err != nil {
		return handlerError{err}
	}
	if err := h.store.form.clean(writes, len(todo)); err != nil {
		return err
	}
	if err := failpoint.Hit("inbox.commit.before"); err != nil {
		return err
	}
	if err := h.store.store.Commit(ctx, writes); err != nil {
		return commitError(ctx, err)
	}
	committed = true
	b.applied += len(todo)
	return failpoint.Hit("inbox.commit.after")
}

func (h *StoreHandler) claim(b *batch, writes *microstore.Batch, entries []entry) (todo []entry, err error) {
	for _, e := range entries {
		if !b.passes(e) {
			continue
		}
		fresh, err := h.store.form.claim(writes, e)
		switch {
		case errors.Is(err, ErrTooOld), errors.Is(err, ErrRestarted):
			b.refuse(e, err)
		case err != nil:
			return nil, err
		case fresh:
			todo = append(todo, e)
		default:
			b.duplicates++
		}
	}
	return todo, nil
}

// commitError tells a commit that the store refused because of what the handler has written (it is too big, or a name in
// it is wrong) from one that has nothing to do with it.
func commitError(ctx context.Context, err error) error {
	for _, others := range []error{microstore.ErrFailed, microstore.ErrFull, microstore.ErrClosed, ctx.Err()} {
		if others != nil && errors.Is(err, others) {
			return fmt.Errorf("inbox: commit: %w", err)
		}
	}
	return handlerError{err}
}

// Middleware makes the handlers of a Watermill router idempotent, one at a time: the handler finds the batch to write into
// by BatchOf, and a message that was handled before does not reach it and is acknowledged. The id is the message's UUID,
// or its framework.MetadataID; the time is its framework.MetadataTime. A handler that returns messages is refused
// (ErrProduced): they would be lost when the process dies before they are published.
func (s *Store) Middleware() message.HandlerMiddleware {
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			return nil, s.Handler(func(ctx context.Context, b *microstore.Batch, _ framework.Record) error {
				return serve(context.WithValue(ctx, batchKey{}, b), next, msg)
			}).Handle(msg.Context(), framework.FromMessage(msg))
		}
	}
}
