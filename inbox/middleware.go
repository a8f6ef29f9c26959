package inbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
)

// ErrProduced is returned by a handler under Middleware that returns messages: they would be published after the commit,
// and be lost when the process dies in between. Write them into an outbox, with the transaction of TxOf.
var ErrProduced = errors.New("inbox: the handler returned messages: write them into an outbox, in the transaction of inbox.TxOf")

type txKey struct{}

// TxOf returns the transaction of a message under Middleware. The handler must not end it.
func TxOf(ctx context.Context) (*sql.Tx, bool) {
	tx, ok := ctx.Value(txKey{}).(*sql.Tx)
	return tx, ok
}

// Middleware makes the handlers of a Watermill router idempotent: the handler finds the transaction in the message's
// context, and a message that was handled before does not reach it and is acknowledged. The id is the message's UUID, or
// its framework.MetadataID; the time is its framework.MetadataTime.
//
// Put it inside Retry, so that each attempt has a transaction of its own.
func (b *Inbox) Middleware(db *sql.DB) message.HandlerMiddleware { return middleware(db, b.Handler) }

func middleware(db *sql.DB, handler func(*sql.DB, Func) *Handler) message.HandlerMiddleware {
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			return nil, handler(db, func(ctx context.Context, tx *sql.Tx, _ framework.Record) error {
				return serve(context.WithValue(ctx, txKey{}, tx), next, msg)
			}).Handle(msg.Context(), framework.FromMessage(msg))
		}
	}
}

// serve calls the next handler with a context that holds the transaction, and not beyond the call.
func serve(ctx context.Context, next message.HandlerFunc, msg *message.Message) error {
	outer := msg.Context()
	defer msg.SetContext(outer)
	msg.SetContext(ctx)
	produced, err := next(msg)
	if err == nil && len(produced) > 0 {
		err = fmt.Errorf("%w (%d of them)", ErrProduced, len(produced))
	}
	return err
}
