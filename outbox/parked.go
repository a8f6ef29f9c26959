package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrNotParked is returned by Resume, DeadLetter, Resend and Discard for what is not, or no longer, there.
var ErrNotParked = errors.New("outbox: not parked, or not among the dead letters")

// Parked is a key that is held back by an event that was not taken. Events behind it wait for it.
type Parked struct {
	// Row is the event's number in the outbox; with EventID it names the parked key in the calls.
	Row      int64
	Slot     int
	Topic    string
	Key      string // empty: the event has none, and holds nothing back but itself
	EventID  string
	Attempts int
	Error    string // of the last attempt
	// RetryIn is when the relay tries again by itself; negative: it does not.
	RetryIn time.Duration
	// Age is how long ago the key was parked.
	Age time.Duration
}

// Parked lists the parked keys, the oldest first, at most limit.
func (t *Table) Parked(ctx context.Context, db *sql.DB, limit int) ([]Parked, error) {
	all, err := t.parked(ctx, db, fmt.Sprintf(" ORDER BY row_id LIMIT %d", limit))
	if err != nil {
		return nil, fmt.Errorf("outbox: list parked keys: %w", t.explain(err))
	}
	return all, nil
}

func (t *Table) parked(ctx context.Context, db *sql.DB, rest string) (all []Parked, err error) {
	rows, err := db.QueryContext(ctx, t.sql(
		"SELECT row_id, slot, topic, event_key, event_id, attempts, error, CASE WHEN retry_at = 0 THEN -1 WHEN retry_at < NOW_MILLIS THEN 0 ELSE retry_at - NOW_MILLIS END, "+
			t.dialect.AgeMillis("parked_at")+" FROM NAME_parked"+rest))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var p Parked
		var key []byte
		var retry, age int64
		if err := rows.Scan(&p.Row, &p.Slot, &p.Topic, &key, &p.EventID, &p.Attempts, &p.Error, &retry, &age); err != nil {
			return nil, err
		}
		p.Key, p.RetryIn, p.Age = string(key), time.Duration(retry)*time.Millisecond, time.Duration(age)*time.Millisecond
		if retry < 0 {
			p.RetryIn = -1
		}
		all = append(all, p)
	}
	return all, rows.Err()
}

// Resume lets a parked key go on: the relay tries its event again, and then those behind it, from its next full scan on.
// Row and event are those of Table.Parked.
func (t *Table) Resume(ctx context.Context, db *sql.DB, row int64, event string) error {
	return t.move(ctx, db, "resume", row, event, "DELETE FROM NAME_parked WHERE row_id = ? AND event_id = ?")
}

// ResumeTopic is Resume for all parked keys of a topic, and returns how many there were.
func (t *Table) ResumeTopic(ctx context.Context, db *sql.DB, topic string) (int64, error) {
	result, err := db.ExecContext(ctx, t.sql("DELETE FROM NAME_parked WHERE topic = ?"), topic)
	if err != nil {
		return 0, fmt.Errorf("outbox: resume topic %q: %w", topic, t.explain(err))
	}
	return result.RowsAffected()
}

// DeadLetter moves the event that holds a parked key back to the dead letters, and lets the key go on behind it. What
// reads the key's events then misses one: it is for an operator to decide. Row and event are those of Table.Parked.
func (t *Table) DeadLetter(ctx context.Context, db *sql.DB, row int64, event string) error {
	return t.move(ctx, db, "dead-letter", row, event,
		"INSERT INTO NAME_dead (row_id, "+columns+", attempts, error) SELECT o.id, "+prefixed("o.")+", p.attempts, p.error"+
			" FROM NAME o JOIN NAME_parked p ON p.row_id = o.id AND p.event_id = o.event_id WHERE o.id = ? AND o.event_id = ?",
		"DELETE FROM NAME WHERE id = ? AND event_id = ?",
		"DELETE FROM NAME_parked WHERE row_id = ? AND event_id = ?")
}

// Resend puts a dead letter back into the outbox, with its id and bytes, behind all that is there: it comes after events
// of its key that were sent meanwhile. Row and event are those of Table.DeadLetters.
func (t *Table) Resend(ctx context.Context, db *sql.DB, row int64, event string) error {
	return t.move(ctx, db, "resend", row, event,
		"INSERT INTO NAME ("+columns+") SELECT "+columns+" FROM NAME_dead WHERE row_id = ? AND event_id = ?",
		"DELETE FROM NAME_dead WHERE row_id = ? AND event_id = ?")
}

// Discard removes a dead letter for good. Row and event are those of Table.DeadLetters.
func (t *Table) Discard(ctx context.Context, db *sql.DB, row int64, event string) error {
	return t.move(ctx, db, "discard", row, event, "DELETE FROM NAME_dead WHERE row_id = ? AND event_id = ?")
}

// move runs statements about the row of an event in a transaction; the first has to find it. A number alone names none, see
// Table.remove.
func (t *Table) move(ctx context.Context, db *sql.DB, verb string, row int64, event string, statements ...string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("outbox: %s row %d: %w", verb, row, t.explain(err))
	}
	defer func() { _ = tx.Rollback() }()
	for i, statement := range statements {
		result, err := tx.ExecContext(ctx, t.sql(statement), row, event)
		var n int64
		if err == nil {
			n, err = result.RowsAffected()
		}
		if err != nil {
			return fmt.Errorf("outbox: %s row %d: %w", verb, row, t.explain(err))
		}
		if i == 0 && n == 0 {
			return fmt.Errorf("%w: event %q in row %d of %s", ErrNotParked, event, row, t.config.Name)
		}
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("outbox: %s row %d: %w", verb, row, t.explain(err))
	}
	return nil
}

func prefixed(prefix string) string {
	return prefix + strings.ReplaceAll(columns, ", ", ", "+prefix)
}

// DeadLetter is an event that was given up.
type DeadLetter struct {
	Row                 int64
	Topic, Key, EventID string
	Payload             []byte
	Attempts            int
	Error               string
}

// DeadLetters lists events that were given up, the oldest first, at most limit.
func (t *Table) DeadLetters(ctx context.Context, db *sql.DB, limit int) ([]DeadLetter, error) {
	fail := func(err error) ([]DeadLetter, error) {
		return nil, fmt.Errorf("outbox: list dead letters: %w", t.explain(err))
	}
	rows, err := db.QueryContext(ctx, t.sql(fmt.Sprintf(
		"SELECT row_id, topic, event_key, event_id, payload, attempts, error FROM NAME_dead ORDER BY row_id LIMIT %d", limit)))
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	var all []DeadLetter
	for rows.Next() {
		var d DeadLetter
		var key []byte
		if err := rows.Scan(&d.Row, &d.Topic, &key, &d.EventID, &d.Payload, &d.Attempts, &d.Error); err != nil {
			return fail(err)
		}
		d.Key = string(key)
		all = append(all, d)
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	return all, nil
}

// Backlog is what an outbox holds.
type Backlog struct {
	// Pending is how many events are written and not yet sent and deleted, parked ones and those behind them too, and what
	// is in the tables of Config.Watermill; More says that there are more, since counting stopped there.
	Pending int64
	More    bool
	// Oldest is how long ago the oldest of them was written, or moved here.
	Oldest time.Duration
	// Parked and Dead are how many keys are parked and how many events were given up.
	Parked, Dead int64
}

// backlogLimit is where Backlog stops counting, so that it is quick when the table is long.
const backlogLimit = 100_000

// Backlog asks the database how far behind the relays are.
func (t *Table) Backlog(ctx context.Context, db *sql.DB) (b Backlog, err error) {
	var oldest sql.NullInt64
	count := fmt.Sprintf("SELECT COUNT(*) FROM (SELECT 1 FROM NAME LIMIT %d) counted", backlogLimit+1)
	for _, q := range []struct {
		query string
		into  any
	}{
		{count, &b.Pending},
		{"SELECT " + t.dialect.AgeMillis("written_at") + " FROM NAME ORDER BY id LIMIT 1", &oldest},
		{"SELECT COUNT(*) FROM NAME_parked", &b.Parked},
		{"SELECT COUNT(*) FROM NAME_dead", &b.Dead},
	} {
		err := db.QueryRowContext(ctx, t.sql(q.query)).Scan(q.into)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return b, fmt.Errorf("outbox: backlog: %w", t.explain(err))
		}
	}
	b.Oldest = time.Duration(oldest.Int64) * time.Millisecond
	for _, topic := range t.config.Watermill {
		w, err := t.watermillTable(ctx, db, topic)
		if err == nil {
			err = w.backlog(ctx, db, &b)
		}
		if err != nil {
			return b, fmt.Errorf("outbox: backlog: %w", err)
		}
	}
	if b.More = b.Pending > backlogLimit; b.More {
		b.Pending = backlogLimit
	}
	return b, nil
}

// refreshParked reads the parked keys of slots. Those that are due to be tried again are parked no more, and marked by
// RetryIn 0; those whose event is gone, because another relay has sent it, are forgotten.
func (r *Relay) refreshParked(ctx context.Context, slots map[int]int64) ([]Parked, error) {
	gone := "DELETE FROM NAME_parked WHERE NOT EXISTS (SELECT 1 FROM NAME o" + r.table.dialect.ForcePrimary() +
		" WHERE o.id = NAME_parked.row_id AND o.event_id = NAME_parked.event_id)"
	if _, err := r.db.ExecContext(ctx, r.table.sql(gone)); err != nil {
		return nil, err
	}
	all, err := r.table.parked(ctx, r.db, "")
	if err != nil {
		return nil, err
	}
	mine := all[:0]
	for _, p := range all {
		if _, ok := slots[p.Slot]; !ok {
			continue
		}
		if p.RetryIn == 0 {
			if _, err := r.db.ExecContext(ctx, r.table.sql("DELETE FROM NAME_parked WHERE row_id = ? AND event_id = ?"), p.Row, p.EventID); err != nil {
				return nil, err
			}
		}
		mine = append(mine, p)
	}
	return mine, nil
}

// park writes down that a key is held back by an event, if that is still in its row and its slot this relay's.
func (r *Relay) park(ctx context.Context, l *lease, b *block) error {
	epoch, owned := l.epoch(b.slot)
	if !owned {
		return nil
	}
	tx, err := r.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	const still = "o.id = ? AND o.event_id = ? AND EXISTS (SELECT 1 FROM NAME_slots s WHERE s.slot = o.slot AND s.owner = ? AND s.epoch = ?)"
	args := []any{b.next, b.eventID, r.config.Name, epoch}
	if _, err := tx.ExecContext(ctx, r.table.sql("DELETE FROM NAME_parked WHERE row_id = ? AND EXISTS (SELECT 1 FROM NAME o WHERE "+still+")"),
		append([]any{b.next}, args...)...); err != nil {
		return err
	}
	retry := "0"
	if b.retry > 0 {
		retry = fmt.Sprintf("NOW_MILLIS + %d", b.retry.Milliseconds())
	}
	if _, err := tx.ExecContext(ctx, r.table.sql(fmt.Sprintf(
		`INSERT INTO NAME_parked (row_id, slot, topic, event_key, event_id, attempts, error, retry_at)
SELECT o.id, o.slot, o.topic, o.event_key, o.event_id, %d, ?, %s FROM NAME o WHERE %s`, b.attempts, retry, still)),
		append([]any{errorText(b.err)}, args...)...); err != nil {
		return err
	}
	return tx.Commit()
}

// errorText is an error as a database keeps it.
func errorText(err error) string {
	text := strings.ReplaceAll(strings.ToValidUTF8(err.Error(), "?"), "\x00", "?")
	if len(text) > 2000 {
		text = strings.ToValidUTF8(text[:2000], "") + "…"
	}
	return text
}
