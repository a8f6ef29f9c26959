package outbox

import (
	"context"
	"slices"
	"time"

	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/internal/sqldb"
)

// writeRows is how many rows are deleted at once.
const writeRows = 2000

// writeResult is what was deleted, parked and put into the table, or the error after which it will be tried again.
type writeResult struct {
	sent   []sentRow
	parks  []*block
	list   []LogRow // to be put into the table
	listed []LogRow // it was
	err    error
}

// startWrite deletes what was sent and writes down what is parked, as much as there is.
func (l *loop) startWrite(ctx context.Context, now time.Time) {
	if l.writing || len(l.sent)+len(l.parks)+len(l.tail.waiting) == 0 || now.Before(l.writeAt) {
		return
	}
	if l.stopping && l.writeTry > 2 {
		return // the rows are sent again by the next relay
	}
	n := min(len(l.sent), writeRows)
	work := writeResult{sent: l.sent[:n:n], parks: l.parks, list: l.tail.waiting}
	l.sent, l.parks, l.tail.waiting = l.sent[n:], nil, nil
	if len(l.sent) == 0 {
		l.sent = nil
	}
	parks := make([]block, len(work.parks)) // as they are now: the loop may go on with them
	for i, b := range work.parks {
		parks[i] = *b
	}
	l.writing = true
	rowBytes := l.rowBytes
	go func() {
		if work.err = l.table.insertLogged(ctx, l.db, work.list); work.err == nil {
			work.list, work.listed = nil, work.list
			work.err = l.write(ctx, work.sent, rowBytes, parks)
		}
		l.writes <- work
	}()
}

func (l *loop) write(ctx context.Context, sent []sentRow, rowBytes int, parks []block) error {
	if err := failpoint.Hit("outbox.delete.before"); err != nil {
		return err
	}
	if sent = slices.DeleteFunc(slices.Clone(sent), func(r sentRow) bool { return r.id < 0 }); len(sent) > 0 { // those are not in the table
		if err := l.table.remove(ctx, sqldb.SQL(l.db), sent, rowBytes); err != nil {
			return err
		}
	}
	for i := range parks {
		if err := l.park(ctx, l.lease, &parks[i]); err != nil {
			return err
		}
	}
	return failpoint.Hit("outbox.delete.after")
}

func (l *loop) handleWrite(result writeResult, now time.Time) error {
	l.writing = false
	if result.err != nil {
		l.sent = append(result.sent, l.sent...)
		l.parks = append(result.parks, l.parks...)
		l.tail.waiting = append(result.list, l.tail.waiting...)
		l.listed(result.listed)
		l.writeTry++
		l.writeAt = now.Add(l.backoff(l.writeTry))
		err := l.table.explain(result.err)
		if sqldb.IsPermanent(err) {
			return err
		}
		l.report("delete what was sent: trying again", err)
		return nil
	}
	l.writeTry, l.writeAt = 0, time.Time{}
	l.listed(result.listed)
	l.done = append(l.done, result)
	if !l.reading || l.tail.stage == stageLive { // what the log shows does not come twice
		l.settle()
	}
	l.counters.update(func(s *Stats) { s.Deleted += int64(len(result.sent)) })
	return nil
}

// settle forgets rows that are deleted and takes keys for parked. It waits for the end of a read, which may have begun
// before the rows were gone and the keys were written down.
func (l *loop) settle() {
	for _, done := range l.done {
		ids := idsOf(done.sent)
		for _, id := range ids {
			delete(l.rows, id)
		}
		if l.tail.reader != nil {
			l.tail.reader.Done(ids...)
		}
		for _, b := range done.parks {
			b.pending = false
		}
	}
	l.done = nil
}
