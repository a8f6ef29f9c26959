package inbox

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/sqldb"
)

// Marks is an inbox for a producer that numbers its messages within each key, such as Millrace's outbox: instead of a row
// for each message, kept for a while, it has one for each key, with the highest number that was handled. It is a value
// without connections, safe for concurrent use.
//
// # What it asks for
//
//   - The first deliveries of a key's messages come in the order of their numbers, gaps and repetitions aside. With an
//     outbox that is so where the writers of a key do not run side by side, whether it polls or reads the log; and as long
//     as dead letters are not sent again.
//   - The consumer does not go on behind a message that has failed: what comes behind it in its key waits until it is
//     handled, or is given up for good. Within a batch the Handler sees to it (ErrEarlier).
//
// A message that comes after a higher number of its key is taken for a duplicate, whatever the reason is.
type Marks struct {
	numbers
	dialect Dialect
	schema  sqldb.Schema
}

// NewMarks describes the marks of a subscriber for a producer; Create makes their table. The producer is what counts: a
// topic that one outbox feeds. Messages with different sources (the attribute of CloudEvents) are counted apart. When a
// producer begins to count anew, give it another name here, "orders 2" instead of "orders".
func NewMarks(dialect Dialect, subscriber, producer string, config MarksConfig) (*Marks, error) {
	n, err := newNumbers(subscriber, producer, config)
	if err := joined(dialect.Validate(), err); err != nil {
		return nil, err
	}
	// What was before the last change is in the row too, so that the statement that raises a mark can return it. The token
	// tells which rows an INSERT has raised, on MySQL, which cannot return them.
	table := `CREATE TABLE IF NOT EXISTS NAME (
	subscriber :exact NOT NULL,
	producer :exact NOT NULL,
	source :exact NOT NULL,
	event_key :key NOT NULL,
	mark bigint NOT NULL,
	event_id :exact NOT NULL,
	handled_at bigint NOT NULL,
	before_mark bigint NOT NULL DEFAULT -1,
	before_id :exact NOT NULL DEFAULT '',
	before_at bigint NOT NULL DEFAULT 0,
	token bigint NOT NULL DEFAULT 0,
	PRIMARY KEY (subscriber, producer, source, event_key)
):options`
	return &Marks{n, dialect, sqldb.Schema{Dialect: dialect, Name: n.config.Name, Create: "inbox.Marks.Create", Steps: [][]string{{table}}}}, nil
}

// Create makes the table, or brings it to this release's version; without need it changes nothing. Several processes may
// call it at the same time.
func (m *Marks) Create(ctx context.Context, db *sql.DB) error {
	if err := m.schema.Apply(ctx, db); err != nil {
		return fmt.Errorf("inbox: create %s: %w", m.config.Name, err)
	}
	return nil
}

// SQL returns what Create runs to come from a version to this release's, for a migration tool. From 0: nothing is there.
func (m *Marks) SQL(from int) string { return m.schema.SQL(from) }

// Version is the version of the table that this release works with.
func (m *Marks) Version() int { return m.schema.Version() }

// Check returns an error that wraps ErrNoTable or ErrVersion unless the table is there and of this release's version.
func (m *Marks) Check(ctx context.Context, db *sql.DB) error {
	if err := m.schema.Check(ctx, db); err != nil {
		return fmt.Errorf("inbox: %w", err)
	}
	return nil
}

// Handler makes a Handler of a Func.
func (m *Marks) Handler(db *sql.DB, handle Func) *Handler {
	return m.BatchHandler(db, oneByOne(handle))
}

// BatchHandler makes a Handler of a BatchFunc.
func (m *Marks) BatchHandler(db *sql.DB, handle BatchFunc) *Handler {
	return &Handler{form: m, db: db, handle: handle}
}

// Middleware is Inbox.Middleware with marks. The router must not go on behind a message that has failed: so it does with
// a subscriber that waits for the acknowledgement of each message before the next one of a key, and without a poison
// queue.
func (m *Marks) Middleware(db *sql.DB) message.HandlerMiddleware { return middleware(db, m.Handler) }

// Claim marks a message as processed in the caller's transaction, and reports whether that is new. Not new: it was
// handled, there is nothing to do. It waits for another transaction that has claimed a message of the same key, until that
// one is over. The error wraps ErrNoSequence where the message is to blame; the transaction can go on then. Claim does not
// find out when a producer has begun to count anew, as a Handler does.
func (m *Marks) Claim(ctx context.Context, tx Execer, r framework.Record) (fresh bool, err error) {
	number, err := m.check(&r)
	if err != nil {
		return false, err
	}
	e := entry{record: &r, number: number}
	next, row := m.next(e), m.row(e)
	insert := "INSERT INTO NAME AS m " + markColumns + " VALUES " + sqldb.Marks(markWidth)
	if m.dialect != MySQL {
		n, err := tx.Exec(ctx, m.sql(insert+onMarkConflict), row...)
		return n == 1, m.claimError(r, err)
	}
	update := func() (int64, error) {
		return tx.Exec(ctx, m.sql("UPDATE NAME SET mark = ?, event_id = ?, handled_at = ?"+markOf+" AND event_key = ? AND mark < ?"),
			next.number, next.id, next.handled, m.subscriber, m.producer, r.Source, []byte(r.Key), next.number)
	}
	n, err := update()
	if n == 0 && err == nil {
		n, err = tx.Exec(ctx, m.sql("INSERT IGNORE INTO NAME "+markColumns+" VALUES "+sqldb.Marks(markWidth)), row...)
	}
	if n == 0 && err == nil { // the key may have got a mark in between, and a lower one
		n, err = update()
	}
	return n == 1, m.claimError(r, err)
}

func (m *Marks) claimError(r framework.Record, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("inbox: claim %q: %w", r.ID, m.explain(err))
}

const (
	markColumns    = "(subscriber, producer, source, event_key, mark, event_id, handled_at)"
	markWidth      = 7
	markOf         = " WHERE subscriber = ? AND producer = ? AND source = ?"
	onMarkConflict = " ON CONFLICT (subscriber, producer, source, event_key) DO UPDATE SET" +
		" before_mark = m.mark, before_id = m.event_id, before_at = m.handled_at," +
		" mark = excluded.mark, event_id = excluded.event_id, handled_at = excluded.handled_at WHERE m.mark < excluded.mark"
)

// claim raises the marks of all keys to the highest number in the batch that is not behind a message that was refused,
// with one statement that returns what they were; then it looks at the messages one after the other. The statement waits
// for other transactions that have raised one of the marks.
//
// Rejected: to read and lock the marks first, and to write them when it is known which are to rise. That is a statement
// more, and a second write of each row for its lock.
func (m *Marks) claim(ctx context.Context, tx *sql.Tx, entries []entry, b *batch) (todo []entry, err error) {
	entries = slices.DeleteFunc(slices.Clone(entries), func(e entry) bool { return !b.passes(e) })
	marks := map[string]mark{}
	highest := m.highest(entries)
	raised, err := m.raise(ctx, tx, highest, marks)
	if err != nil {
		return nil, fmt.Errorf("inbox: claim %d messages: %w", len(entries), m.explain(err))
	}
	for _, e := range entries {
		if !b.passes(e) {
			continue
		}
		order := m.order(e.record)
		at, ok := marks[order]
		if !ok {
			return nil, fmt.Errorf("inbox: claim %q: the mark of its key has been deleted meanwhile", e.record.ID)
		}
		fresh, err := m.judge(at, e)
		switch {
		case err != nil && raised[order]: // its mark must not rise: only as far as before this message
			return nil, handlerError{err}
		case err != nil:
			b.refuse(e, err)
		case fresh:
			todo, marks[order] = append(todo, e), m.next(e)
		}
	}
	return todo, nil
}

func (m *Marks) explain(err error) error {
	return sqldb.Explain(err, m.config.Name, m.schema.Create)
}

func (m *Marks) sql(statement string) string {
	return m.dialect.Rebind(strings.ReplaceAll(statement, "NAME", m.config.Name))
}
