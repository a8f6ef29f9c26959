package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
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
)

// remove deletes rows that were sent. With Config.KeepSent it moves them, in one statement: rows that are not there any
// more were kept by whoever has deleted them.
func (t *Table) remove(ctx context.Context, tx Execer, ids []int64) error {
	if t.config.KeepSent == 0 {
		_, err := t.dialect.DeleteIDs(ctx, tx, t.config.Name, "id", ids)
		return err
	}
	in, args := t.dialect.InIDs("id", ids)
	_, err := tx.Exec(ctx, t.sql("WITH gone AS (DELETE FROM NAME WHERE "+in+" RETURNING id, "+columns+", written_at)"+
		" INSERT INTO NAME_sent (row_id, "+columns+", written_at) SELECT id, "+columns+", written_at FROM gone"), args...)
	return err
}

// PurgeSent makes partitions for the next seven days of what was sent, and drops the days that are older than
// Config.KeepSent. Call it once a day or more often, as the owner of the tables. Where that was not done, events are kept
// too; their rows are deleted by a later call. Several processes may call it at the same time. For whoever reads those
// tables it waits two seconds, since relays that delete wait behind it, and returns an error then: call it again.
func (t *Table) PurgeSent(ctx context.Context, db *sql.DB) error {
	if t.config.KeepSent == 0 {
		return errors.New("outbox: purge what was sent: Config.KeepSent is not set, so nothing is kept: set it, or drop by hand what is left from before")
	}
	if err := t.purgeSent(ctx, db); err != nil {
		return fmt.Errorf("outbox: purge %s_sent: %w", t.config.Name, t.explain(err))
	}
	return nil
}

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
	for n := range sentAhead { // from tomorrow on: of today there may be rows in the rest, which would be in the way
		from := now.Truncate(day).Add(time.Duration(n+1) * day)
		if _, ok := days[from]; ok {
			continue
		}
		if err := t.changeSent(ctx, db, fmt.Sprintf("CREATE TABLE IF NOT EXISTS NAME_sent_%s PARTITION OF NAME_sent FOR VALUES FROM ('%s') TO ('%s')",
			from.Format(dayFormat), from.Format(time.RFC3339), from.Add(day).Format(time.RFC3339))); err != nil {
			return err
		}
	}
	oldest := now.Add(-t.config.KeepSent)
	for from, table := range days {
		if from.Add(day).After(oldest) {
			continue
		}
		if err := t.changeSent(ctx, db, "DROP TABLE IF EXISTS "+table); err != nil {
			return err
		}
	}
	return t.changeSent(ctx, db, "DELETE FROM NAME_sent_rest WHERE sent_at < ?", oldest)
}

// sentDays are the partitions that PurgeSent has made, by the beginning of their day. Others are their makers'.
func (t *Table) sentDays(ctx context.Context, db *sql.DB) (days map[time.Time]string, err error) {
	rows, err := db.QueryContext(ctx, t.sql("SELECT c.relname, c.oid::regclass::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'NAME_sent'::regclass"))
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
