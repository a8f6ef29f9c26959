package inbox

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/sqldb"
)

// highest returns of each source and key the entry with the highest number, sorted by source and key, so that two
// transactions with the same ones do not wait for each other.
func (m *Marks) highest(entries []entry) []entry {
	sorted := slices.SortedFunc(slices.Values(entries), func(x, y entry) int {
		return cmp.Or(strings.Compare(x.record.Source, y.record.Source), strings.Compare(x.record.Key, y.record.Key), cmp.Compare(y.number, x.number))
	})
	return slices.CompactFunc(sorted, func(x, y entry) bool { return m.order(x.record) == m.order(y.record) })
}

// raise raises the marks of different keys, and fills in what they were before. Those that were as high or higher stay,
// and are not in raised.
func (m *Marks) raise(ctx context.Context, tx *sql.Tx, entries []entry, before map[string]mark) (raised map[string]bool, err error) {
	raised = make(map[string]bool, len(entries))
	for part := range slices.Chunk(entries, claimRows) {
		token := rand.Int64()
		if m.dialect == MySQL {
			err = m.raiseMySQL(ctx, tx, part, token)
		} else {
			err = m.raiseReturning(ctx, tx, part, before, raised)
		}
		if err != nil {
			return nil, err
		}
		left := slices.DeleteFunc(part, func(e entry) bool { return raised[m.order(e.record)] })
		for len(left) > 0 { // source by source
			n := slices.IndexFunc(left, func(e entry) bool { return e.record.Source != left[0].record.Source })
			if n < 0 {
				n = len(left)
			}
			if m.dialect == MySQL {
				n = min(n, readRows)
			}
			if err := m.read(ctx, tx, left[:n], token, before, raised); err != nil {
				return nil, err
			}
			left = left[n:]
		}
	}
	return raised, nil
}

func (m *Marks) raiseReturning(ctx context.Context, tx *sql.Tx, entries []entry, before map[string]mark, raised map[string]bool) error {
	query := "INSERT INTO NAME AS m " + markColumns
	var args []any
	if m.dialect == Postgres { // one statement, whatever their number
		list := make([][5]any, len(entries))
		for i, e := range entries {
			next := m.next(e)
			list[i] = [5]any{e.record.Source, hex.EncodeToString([]byte(e.record.Key)), next.number, next.id, next.handled}
		}
		text, err := json.Marshal(list)
		if err != nil {
			return err
		}
		query += " SELECT ?, ?, e->>0, decode(e->>1, 'hex'), (e->>2)::bigint, e->>3, (e->>4)::bigint FROM jsonb_array_elements(?::text::jsonb) AS e"
		args = []any{m.subscriber, m.producer, string(text)}
	} else {
		query += " VALUES " + sqldb.Rows(len(entries), markWidth)
		for _, e := range entries {
			args = append(args, m.row(e)...)
		}
	}
	rows, err := tx.QueryContext(ctx, m.sql(query+onMarkConflict+" RETURNING source, event_key, before_mark, before_id, before_at"), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var source string
		var key []byte
		var at mark
		if err := rows.Scan(&source, &key, &at.number, &at.id, &at.handled); err != nil {
			return err
		}
		order := m.order(&framework.Record{Source: source, Key: string(key)})
		before[order], raised[order] = at, true
	}
	return rows.Err()
}

func (m *Marks) row(e entry) []any {
	next := m.next(e)
	return []any{m.subscriber, m.producer, e.record.Source, []byte(e.record.Key), next.number, next.id, next.handled}
}

// raiseMySQL raises marks and gives them the token. The assignments take effect from left to right, so that of mark is the
// last one.
func (m *Marks) raiseMySQL(ctx context.Context, tx *sql.Tx, entries []entry, token int64) error {
	var args []any
	for _, e := range entries {
		args = append(args, append(m.row(e), token)...)
	}
	query := "INSERT INTO NAME (subscriber, producer, source, event_key, mark, event_id, handled_at, token) VALUES " +
		sqldb.Rows(len(entries), markWidth+1) + " ON DUPLICATE KEY UPDATE "
	for _, set := range [][2]string{{"token", "VALUES(token)"}, {"before_mark", "mark"}, {"before_id", "event_id"}, {"before_at", "handled_at"},
		{"event_id", "VALUES(event_id)"}, {"handled_at", "VALUES(handled_at)"}} {
		query += set[0] + " = IF(VALUES(mark) > mark, " + set[1] + ", " + set[0] + "), "
	}
	_, err := tx.ExecContext(ctx, m.sql(query+"mark = GREATEST(mark, VALUES(mark))"), args...)
	return err
}

// readRows is how many keys are in one statement on MySQL.
const readRows = 250

// keyTable is a table of keys, k, that is joined in front of another. Marks are read for an update, which they are locked
// for already, since a plain read might not see what others have committed; with the keys in a list the optimiser would read
// all of a producer's, and wait for those that other transactions have raised.
func keyTable(keys []string) string {
	selects := make([]string, len(keys))
	for i, key := range keys {
		selects[i] = "SELECT x'" + hex.EncodeToString([]byte(key)) + "'"
	}
	selects[0] += " AS k"
	return "(" + strings.Join(selects, " UNION ALL ") + ") AS claimed"
}

// read reads marks of one source: of those that have the token what was before, and of others what is.
func (m *Marks) read(ctx context.Context, tx *sql.Tx, entries []entry, token int64, into map[string]mark, raised map[string]bool) error {
	query := "SELECT event_key, token, mark, event_id, handled_at, before_mark, before_id, before_at FROM "
	source := entries[0].record.Source
	args := []any{m.subscriber, m.producer, source}
	if m.dialect == MySQL {
		keys := make([]string, len(entries))
		for i, e := range entries {
			keys[i] = e.record.Key
		}
		query += keyTable(keys) + " STRAIGHT_JOIN NAME" + markOf + " AND event_key = k FOR UPDATE"
	} else {
		query += "NAME" + markOf + " AND event_key IN " + sqldb.Marks(len(entries))
		for _, e := range entries {
			args = append(args, []byte(e.record.Key))
		}
	}
	rows, err := tx.QueryContext(ctx, m.sql(query), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var key []byte
		var by int64
		var at, before mark
		if err := rows.Scan(&key, &by, &at.number, &at.id, &at.handled, &before.number, &before.id, &before.handled); err != nil {
			return err
		}
		order := m.order(&framework.Record{Source: source, Key: string(key)})
		if m.dialect == MySQL && by == token {
			at, raised[order] = before, true
		}
		into[order] = at
	}
	return rows.Err()
}
