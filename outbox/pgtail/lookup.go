package pgtail

import (
	"context"
	"math"
	"time"

	"github.com/millrace/millrace/outbox"
)

// lookUp looks rows up in the table. Those that are not there although their transaction has ended were sent and deleted,
// or given up. Others are not visible yet: the log has a transaction before others see it.
func (r *reader) lookUp(ctx context.Context, batch []pending) (found []outbox.LogRow, gone []int64, err error) {
	for wait := 200 * time.Microsecond; ; wait = min(2*wait, 50*time.Millisecond) {
		there, now, err := r.present(ctx, batch)
		if err != nil {
			return nil, nil, err
		}
		waits := false
		found, gone = found[:0], gone[:0]
		for _, p := range batch {
			switch {
			case there[p.row.ID], p.row.ID < 0 && now.sees(p.xid):
				found = append(found, *p.row)
			case now.sees(p.xid):
				gone = append(gone, p.row.ID)
			default:
				waits = true
			}
		}
		if !waits {
			return found, gone, nil
		}
		if err := pause(ctx, wait); err != nil {
			return nil, nil, err
		}
	}
}

// present asks, of one moment, which rows are in the table and which transactions have ended.
func (r *reader) present(ctx context.Context, batch []pending) (there map[int64]bool, now snapshot, err error) {
	ids := make([]int64, 0, len(batch))
	low, high := int64(math.MaxInt64), int64(0)
	for _, p := range batch {
		if id := p.row.ID; id > 0 {
			ids, low, high = append(ids, id), min(low, id), max(high, id)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	// The bounds make the planner use the index, whatever it takes the table for.
	rows, err := r.sql.Query(ctx, "SELECT id, '' FROM "+r.log.table.Name()+" WHERE id BETWEEN $1 AND $2 AND id IN (SELECT unnest($3::bigint[]))"+
		" UNION ALL SELECT NULL, txid_current_snapshot()::text", low, high, ids)
	if err != nil {
		return nil, now, err
	}
	defer rows.Close()
	there = make(map[int64]bool, len(batch))
	for rows.Next() {
		var id *int64
		var text string
		if err := rows.Scan(&id, &text); err != nil {
			return nil, now, err
		}
		if id != nil {
			there[*id] = true
		} else if now, err = parseSnapshot(text); err != nil {
			return nil, now, err
		}
	}
	return there, now, rows.Err()
}
