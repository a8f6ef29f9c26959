package outbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/millrace/millrace/internal/sqldb"
)

// sentTables keep what was sent, on PostgreSQL: a partition for each day, so that old days go by DROP and leave no dead
// rows. What no day is made for goes to the rest, so a relay can always write. There is no index: whoever searches makes
// the ones that they need, on the first table.
var sentTables = []string{
	`CREATE TABLE IF NOT EXISTS NAME_sent (
	row_id bigint NOT NULL,` + columnTypes + `
	written_at timestamptz NOT NULL,
	sent_at timestamptz NOT NULL DEFAULT clock_timestamp()
) PARTITION BY RANGE (sent_at)`,
	`CREATE TABLE IF NOT EXISTS NAME_sent_rest PARTITION OF NAME_sent DEFAULT`,
}

const (
	day       = 24 * time.Hour // of UTC, which has no other
	dayFormat = "20060102"
	// sentAhead is for how many days to come PurgeSent makes partitions.
	sentAhead = 7
	// keptBytes is about how much is moved at once: each row is written again, with its payload.
	keptBytes = 4 << 20
)

// States of PostgreSQL's errors.
const (
	stateRowInRest = "23514" // a row of the day is in the rest
	stateOverlap   = "42P17" // another partition has a part of the day
	stateLocked    = "55P03" // lock_timeout
)

// sentRow is a row that was sent: its number, and the event's id.
type sentRow struct {
	id    int64
	event string
}

func idsOf(sent []sentRow) []int64 {
	ids := make([]int64, len(sent))
	for i, r := range sent {
		ids[i] = r.id
	}
	return ids
}

// remove deletes rows that were sent, of about rowBytes each. With Config.KeepSent it moves them, a row whole by its
// statement, whatever becomes of others: rows that are not there any more were kept by whoever has deleted them.
//
// A row is deleted by its number and its event. MariaDB and MySQL show a commit before it is on disk, and so does PostgreSQL
// with synchronous_commit = off, and a primary whose replica is behind: when the server dies then, the row that was sent is
// gone, and its number is given to another event. SQLite's number alone will do: a machine that forgets a commit of its own has
// taken the relay with it.
func (t *Table) remove(ctx context.Context, tx Execer, sent []sentRow, rowBytes int) error {
	n := len(sent)
	switch {
	case t.config.KeepSent > 0:
		n = max(1, keptBytes/rowBytes)
	case t.dialect == MySQL:
		n = sqldb.DeleteRows
	}
	for part := range slices.Chunk(sent, n) {
		if err := t.removePart(ctx, tx, part); err != nil {
			return err
		}
	}
	return nil
}

func (t *Table) removePart(ctx context.Context, tx Execer, sent []sentRow) (err error) {
	if t.dialect == MySQL {
		events := make([]any, len(sent))
		for i, r := range sent {
			events[i] = r.event
		}
		_, err = t.dialect.DeleteIDs(ctx, tx, t.config.Name, "id", idsOf(sent), " WHERE o.event_id IN "+sqldb.Marks(len(events)), events...)
		return err
	}
	in, args := t.dialect.InIDs("id", idsOf(sent))
	if events, ok := eventsOf(sent); ok && t.dialect == Postgres {
		in, args = in+" AND (SELECT ?::text::jsonb) ->> id::text = event_id", append(args, events)
	}
	statement := "DELETE FROM NAME WHERE " + in
	if t.config.KeepSent > 0 {
		statement = "WITH gone AS (" + statement + " RETURNING id, " + columns + ", written_at)" +
			" INSERT INTO NAME_sent (row_id, " + columns + ", written_at) SELECT id, " + columns + ", written_at FROM gone"
	}
	_, err = tx.Exec(ctx, t.sql(statement), args...)
	return err
}

// eventsOf is a JSON object of events by numbers; not ok where a text has no place in JSON, in a database without an
// encoding.
func eventsOf(sent []sentRow) (object string, ok bool) {
	b := []byte{'{'}
	for i, r := range sent {
		text, err := json.Marshal(r.event)
		if err != nil || !utf8.ValidString(r.event) {
			return "", false
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(strconv.AppendInt(append(b, '"'), r.id, 10), '"', ':')
		b = append(b, text...)
	}
	return string(append(b, '}')), true
}

// checkKept finds at the start that what was sent cannot be kept: a relay would send it, and send it again after each
// restart, since it could not delete it.
func (t *Table) checkKept(ctx context.Context, db *sql.DB) error {
	if t.config.KeepSent == 0 {
		return nil
	}
	var may bool
	if err := db.QueryRowContext(ctx, t.sql("SELECT has_table_privilege('NAME_sent', 'INSERT')")).Scan(&may); err != nil {
		return t.explain(err)
	}
	if !may {
		return fmt.Errorf("%w: INSERT into %[2]s_sent, where Config.KeepSent keeps what was sent: GRANT INSERT ON %[2]s_sent to the relay's user",
			ErrDenied, t.config.Name)
	}
	return nil
}

// PurgeSent drops the days of what was sent that are older than Config.KeepSent, and makes partitions for today and the
// next seven days. Call it right after Create, before the first relay, and then once a day or more often, as the owner of
// the tables. Where that was not done, events are kept too, in NAME_sent_rest; their rows are deleted by a later call. Each
// day that is made then has that read once, while relays wait; when it is empty, as it stays otherwise, that takes no time.
// Several processes may call it at the same time. For whoever reads those tables it waits two seconds, since relays that
// delete wait behind it, and returns an error then: call it again.
func (t *Table) PurgeSent(ctx context.Context, db *sql.DB) error {
	if t.config.KeepSent == 0 {
		return errors.New("outbox: purge what was sent: Config.KeepSent is not set, so nothing is kept: set it, or drop by hand what is left from before")
	}
	if err := t.purgeSent(ctx, db); err != nil {
		return fmt.Errorf("outbox: purge %s_sent: %w", t.config.Name, t.explain(err))
	}
	return nil
}

// purgeSent makes room first, for a disk that is full, and goes on after an error, unless of waiting or the connection.
func (t *Table) purgeSent(ctx context.Context, db *sql.DB) error {
	var millis int64
	if err := db.QueryRowContext(ctx, t.sql("SELECT NOW_MILLIS")).Scan(&millis); err != nil {
		return err
	}
	now := time.UnixMilli(millis).UTC()
	days, err := t.sentDays(ctx, db)
	if err != nil {
		return err
	}
	var faults []error
	ended := false
	change := func(statement string, passes ...string) {
		if ended {
			return
		}
		if err := t.changeSent(ctx, db, statement); err != nil && !slices.Contains(passes, sqldb.State(err)) {
			faults = append(faults, err)
			ended = sqldb.State(err) == stateLocked || sqldb.State(err) == ""
		}
	}
	oldest := now.Add(-t.config.KeepSent)
	for from, table := range days {
		if !from.Add(day).After(oldest) {
			change("DROP TABLE IF EXISTS " + table)
		}
	}
	faults = append(faults, t.changeSent(ctx, db, "DELETE FROM NAME_sent_rest WHERE sent_at < ?", oldest))
	for n := range 1 + sentAhead {
		from := now.Truncate(day).Add(time.Duration(n) * day)
		if _, ok := days[from]; ok {
			continue
		}
		passes := []string{stateOverlap}
		if n == 0 { // where relays were there before, its rows are in the rest, and it stays there
			var there bool
			if err := db.QueryRowContext(ctx, t.sql("SELECT EXISTS (SELECT 1 FROM NAME_sent_rest WHERE sent_at >= ?)"), from).Scan(&there); err != nil || there {
				faults = append(faults, err)
				continue
			}
			passes = append(passes, stateRowInRest)
		}
		change(fmt.Sprintf("CREATE TABLE IF NOT EXISTS NAME_sent_%s PARTITION OF NAME_sent FOR VALUES FROM ('%s') TO ('%s')",
			from.Format(dayFormat), from.Format(time.RFC3339), from.Add(day).Format(time.RFC3339)), passes...)
	}
	return errors.Join(faults...)
}

// sentDays are the partitions that PurgeSent has made, by the beginning of their day. Others are their makers'.
func (t *Table) sentDays(ctx context.Context, db *sql.DB) (days map[time.Time]string, err error) {
	rows, err := db.QueryContext(ctx, t.sql("SELECT c.relname, format('%I.%I', n.nspname, c.relname) FROM pg_inherits i"+
		" JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.inhparent = 'NAME_sent'::regclass"))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	days = map[time.Time]string{}
	prefix := strings.ToLower(t.config.Name[strings.IndexByte(t.config.Name, '.')+1:]) + "_sent_"
	for rows.Next() {
		var name, table string
		if err := rows.Scan(&name, &table); err != nil {
			return nil, err
		}
		text, ours := strings.CutPrefix(name, prefix)
		if from, err := time.Parse(dayFormat, text); ours && err == nil {
			days[from] = table
		}
	}
	return days, rows.Err()
}

// changeSent changes the partitions. Processes wait for each other, and for others not longer than relays may wait behind.
func (t *Table) changeSent(ctx context.Context, db *sql.DB, statement string, args ...any) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	for _, s := range []string{"SELECT pg_advisory_xact_lock(hashtext('millrace sent NAME'))", "SET LOCAL lock_timeout = '2s'"} {
		if _, err := tx.ExecContext(ctx, t.sql(s)); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, t.sql(statement), args...); err != nil {
		return err
	}
	return tx.Commit()
}
