package inbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/sqldb"
)

// claimRows is how many ids go into one statement.
const claimRows = 1000

// Claim marks a message as processed in the caller's transaction, and reports whether that is new. Not new: it was
// handled, there is nothing to do. It waits for another transaction that has claimed the same message, until that one is
// over. The error wraps ErrTooOld or ErrNoID where the message is to blame; the transaction can go on then.
func (b *Inbox) Claim(ctx context.Context, tx Execer, r framework.Record) (fresh bool, err error) {
	when, err := b.config.check(&r)
	if err != nil {
		return false, err
	}
	statement := "INSERT INTO NAME (subscriber, event_id, event_time) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
	if b.dialect == MySQL {
		// IGNORE hides other errors too, but there are none with arguments that are checked. ON DUPLICATE KEY UPDATE
		// would count a row that is there when the connection has the flag clientFoundRows.
		statement = "INSERT IGNORE INTO NAME (subscriber, event_id, event_time) VALUES (?, ?, ?)"
	}
	n, err := tx.Exec(ctx, b.sql(statement), b.subscriber, r.ID, when)
	if err != nil {
		return false, fmt.Errorf("inbox: claim %q: %w", r.ID, b.explain(err))
	}
	return n == 1, nil
}

// check returns the time to keep a message's id by, or why it cannot be handled.
func (c Config) check(r *framework.Record) (millis int64, err error) {
	if !isName(r.ID) {
		return 0, fmt.Errorf("%w: %q: it must be 1 to %d bytes of text", ErrNoID, r.ID, maxNameBytes)
	}
	now := c.Now()
	if r.Time.IsZero() {
		return now.UnixMilli(), nil
	}
	if age := now.Sub(r.Time); age > c.Retention {
		return 0, fmt.Errorf("%w: %q is of %s, Config.Retention is %v", ErrTooOld, r.ID, r.Time.UTC().Format(time.RFC3339), c.Retention)
	}
	return r.Time.UnixMilli(), nil
}

// isName tells what fits into a column for names.
func isName(text string) bool { return text != "" && len(text) <= maxNameBytes && isText(text) }

func isText(text string) bool { return utf8.ValidString(text) && !strings.ContainsRune(text, 0) }

func (b *Inbox) check(r *framework.Record) (millis int64, err error) { return b.config.check(r) }

func (b *Inbox) order(*framework.Record) string { return "" }

// claim marks messages as processed and returns those that are new. They have different ids, and are sorted here, so that
// two transactions with the same ones do not wait for each other.
func (b *Inbox) claim(ctx context.Context, tx *sql.Tx, entries []entry, _ *batch) (todo []entry, err error) {
	sorted := slices.SortedFunc(slices.Values(entries), func(x, y entry) int { return strings.Compare(x.record.ID, y.record.ID) })
	fresh := make(map[string]bool, len(entries))
	for part := range slices.Chunk(sorted, claimRows) {
		insert := b.insertReturning
		if b.dialect == MySQL {
			insert = b.insertWithToken
		}
		if err := insert(ctx, tx, part, fresh); err != nil {
			return nil, fmt.Errorf("inbox: claim %d messages: %w", len(part), b.explain(err))
		}
	}
	for _, e := range entries { // in the order of the batch
		if fresh[e.record.ID] {
			todo = append(todo, e)
		}
	}
	return todo, nil
}

// insertReturning leaves rows alone that are there, and returns the others. Catching the error of a duplicate instead
// would end the transaction.
func (b *Inbox) insertReturning(ctx context.Context, tx *sql.Tx, entries []entry, fresh map[string]bool) error {
	var query string
	var args []any
	if b.dialect == Postgres { // one statement, whatever their number
		list := make([][2]any, len(entries))
		for i, e := range entries {
			list[i] = [2]any{e.record.ID, e.number}
		}
		text, err := json.Marshal(list)
		if err != nil {
			return err
		}
		query = "INSERT INTO NAME (subscriber, event_id, event_time) SELECT ?, e->>0, (e->>1)::bigint FROM jsonb_array_elements(?::text::jsonb) AS e"
		args = []any{b.subscriber, string(text)}
	} else {
		query = "INSERT INTO NAME (subscriber, event_id, event_time) VALUES " + sqldb.Rows(len(entries), 3)
		for _, e := range entries {
			args = append(args, b.subscriber, e.record.ID, e.number)
		}
	}
	return collect(ctx, tx, b.sql(query+" ON CONFLICT DO NOTHING RETURNING event_id"), args, fresh)
}

// insertWithToken does the same on MySQL: the rows with the token are those that this INSERT has made.
func (b *Inbox) insertWithToken(ctx context.Context, tx *sql.Tx, entries []entry, fresh map[string]bool) error {
	token := rand.Int64()
	var insert, find []any
	find = append(find, b.subscriber, token)
	for _, e := range entries {
		insert = append(insert, b.subscriber, e.record.ID, e.number, token)
		find = append(find, e.record.ID)
	}
	if _, err := tx.ExecContext(ctx, b.sql("INSERT IGNORE INTO NAME (subscriber, event_id, event_time, token) VALUES "+sqldb.Rows(len(entries), 4)), insert...); err != nil {
		return err
	}
	return collect(ctx, tx, b.sql("SELECT event_id FROM NAME WHERE subscriber = ? AND token = ? AND event_id IN "+sqldb.Marks(len(entries))), find, fresh)
}

func collect(ctx context.Context, tx *sql.Tx, query string, args []any, into map[string]bool) error {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return err
		}
		into[id] = true
	}
	return rows.Err()
}
