package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/millrace/millrace/internal/sqldb"
)

// stage is where a relay with a Log is.
type stage int

const (
	stagePoll   stage = iota // it reads the table
	stageLook                // it reads nothing, and looks whether the log can be read on where it was left
	stageSettle              // it reads nothing, and waits until nothing is in memory
	stageLive                // it reads the log
)

// tailing reads the log in place of the table while all goes well, and falls back to the table whenever not.
//
// # Steps
//
//  1. Look: where the slot is in order, and its mark stands for the parked keys of the table as they are, the log is read
//     on. Otherwise the table is read, by passes as always, until one from the first row on has found all, and no key or
//     topic waits; and where there is no slot, or it is lost, it is made then, and one more pass follows.
//  2. Settle: what is in memory is sent and deleted.
//  3. Live: rows come from the log, in the order of the commits. Those of parked keys stay in the table.
//  4. As soon as a key or a topic is not taken, a parked key is resumed or due, slots are gone, or a row stays in the
//     table that the log has not shown, what is in memory and not being sent is forgotten, and it goes on with 1, by the
//     table. When the connection is lost, with 1 from the start.
//
// # Invariants
//
//   - All that was committed before the slot's place is sent and deleted, or belongs to keys that the mark stands for.
//     The place moves past a transaction only when that holds for its rows. When Live begins after a pass, the pass has
//     found what was before the place.
//   - What comes after the place is in the log, whatever was polled meanwhile: rows that polling has sent are not in the
//     table any more, and the reader leaves them out.
//   - Only a relay that has all slots reads the log, so nobody polls meanwhile.
//
// # Rejected
//
// Reading parked keys and failing topics from the table while others come from the log: two orders for one key, and a
// row that is not visible yet falls between them.
type tailing struct {
	stage   stage
	partial bool      // not all slots were this relay's all the time
	create  bool      // a slot has to be made
	made    bool      // it was, and the log has not been read since
	drained bool      // a pass from the first row on, begun after since, has found all
	since   time.Time // when the stage began
	mark    string    // with which the log is read
	reader  LogReader
	began   bool      // the log was read once
	tries   int       // in a row that failed, or did not last
	at      time.Time // nothing is tried before
	stuck   int64     // the lowest row at the last look
	end     uint64    // the log's end when it was seen first
	missed  bool      // the log was read past that place, and stuck was not in memory

	// Of events that are in the log only:
	unlisted map[int64]bool // queued, and not sent
	listing  bool           // since one was not taken, those of list are put into the table as soon as they come again
	list     map[int64]bool
	waiting  []LogRow // to be put there

	busy    bool
	results chan tailResult
	ctx     context.Context // of calls that wait for the log
	stop    context.CancelFunc
}

// tailResult is what a call of the Log has come to.
type tailResult struct {
	made   bool      // a slot was made
	reader LogReader // it was opened
	mark   string
	parked []Parked // else it was looked at
	lowest int64
	end    uint64
	err    error
}

// watchTail moves on to the next stage when it is time.
func (l *loop) watchTail(now time.Time) {
	t := &l.tail
	if l.config.Log == nil || l.stopping {
		return
	}
	t.drained = t.drained && l.quiet() // what was put aside since the pass has not been read to its end again
	switch complete := len(l.mine) == Slots; {
	case !complete:
		if t.stage != stagePoll {
			l.leaveLog(stagePoll, now)
		}
		t.partial = true
	case t.partial: // all slots have come
		t.partial, t.listing, t.list, t.waiting = false, false, nil, nil
		l.leaveLog(stageLook, now)
	case t.stage == stageLive && !l.quiet():
		if len(t.unlisted) > 0 {
			t.listing, t.list = true, t.unlisted
		}
		l.leaveLog(stagePoll, now)
	case t.stage == stageLive && t.listing && len(t.list)+len(t.waiting) == 0 && !l.writing:
		t.listing, t.list = false, nil
		l.leaveLog(stagePoll, now)
	case t.stage == stageSettle && !l.quiet() && !t.busy:
		l.leaveLog(stagePoll, now)
	}
	if t.busy || t.partial || now.Before(t.at) {
		return
	}
	switch {
	case t.stage == stagePoll && t.drained && l.quiet() && t.create:
		l.call(func(ctx context.Context) tailResult { return tailResult{made: true, err: l.config.Log.Create(ctx)} })
	case t.stage == stagePoll && t.drained && l.quiet() && t.made:
		t.stage = stageSettle
	case t.stage == stagePoll && t.drained && l.quiet(), t.stage == stageLook, t.stage == stageLive:
		live := t.stage == stageLive
		l.call(func(ctx context.Context) tailResult { return l.look(ctx, live) })
	}
	if t.stage == stageSettle && len(l.rows) == 0 && !l.reading && !l.writing && l.sending == 0 {
		mark := markOfParked(l.parkedRows())
		l.call(func(ctx context.Context) tailResult {
			reader, err := l.config.Log.Open(ctx, mark)
			return tailResult{reader: reader, mark: mark, err: err}
		})
	}
}

// call runs something that takes its time beside the loop.
func (l *loop) call(f func(context.Context) tailResult) {
	l.tail.busy = true
	go func() { l.tail.results <- f(l.tail.ctx) }()
}

// look asks for the mark, unless the log is being read, the parked keys, and the lowest row that is behind none of them.
func (l *loop) look(ctx context.Context, live bool) (result tailResult) {
	fail := func(err error) tailResult { result.err = err; return result }
	var err error
	if !live {
		if result.mark, err = l.config.Log.Mark(ctx); err != nil {
			return fail(err)
		}
	}
	if result.parked, err = l.table.parked(ctx, l.db, ""); err != nil {
		return fail(err)
	}
	condition, _ := l.condition(readRequest{parked: true, slots: allSlots()})
	rows, err := l.db.QueryContext(ctx, l.table.sql("SELECT o.id FROM NAME o WHERE o.id > 0"+condition+" ORDER BY o.id LIMIT 1"))
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&result.lowest); err != nil {
			return fail(err)
		}
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	result.end, result.err = l.config.Log.End(ctx)
	return result
}

func allSlots() map[int]int64 {
	slots := make(map[int]int64, Slots)
	for slot := range Slots {
		slots[slot] = 0
	}
	return slots
}

func (l *loop) handleTail(result tailResult, now time.Time) error {
	t := &l.tail
	t.busy = false
	if result.err != nil {
		return l.handleTailError(result.err, now)
	}
	due := slices.ContainsFunc(result.parked, func(p Parked) bool { return p.RetryIn == 0 })
	mark := markOfParked(rowsOf(result.parked))
	switch {
	case result.made:
		t.create, t.made = false, true
		l.leaveLog(stagePoll, now) // one more pass finds what came before the slot
	case result.reader != nil && (l.stopping || t.stage != stageSettle || !l.quiet()):
		l.closeLog(result.reader)
	case result.reader != nil:
		t.stage, t.reader, t.mark, t.made, t.began, t.stuck = stageLive, result.reader, result.mark, false, true, 0
		t.since, t.at, t.end, t.missed, t.unlisted = now, now.Add(l.config.FullScan), 0, false, map[int64]bool{}
	case t.stage == stageLook && mark == result.mark && !due:
		l.reconcile(result.parked)
		t.stage = stageSettle
	case t.stage == stageLook:
		l.leaveLog(stagePoll, now)
	case t.stage == stagePoll && t.drained:
		t.stage = stageSettle
	case t.stage == stageLive:
		l.watchLive(result, due || mark != t.mark, now)
	}
	return nil
}

// watchLive falls back to the table when parked keys have changed, or a row is in the table that the log did not show
// though it has been read past the place where it must have been. A row that was deleted while a look was on its way looks
// like that, too, so there is one more look.
func (l *loop) watchLive(result tailResult, changed bool, now time.Time) {
	t := &l.tail
	if t.listing && t.end > 0 && t.reader.Reached() >= t.end { // what is left of the list has been sent meanwhile
		t.list = nil
	}
	_, known := l.rows[result.lowest]
	missed := !known && t.stuck > 0 && result.lowest == t.stuck && t.reader.Reached() >= t.end
	again := missed && !t.missed
	switch {
	case changed:
		l.leaveLog(stagePoll, now)
		return
	case missed && t.missed:
		l.report("read the log", fmt.Errorf("row %d is in the table and was not in the log: reading the table", t.stuck))
		l.leaveLog(stagePoll, now)
		return
	case result.lowest != t.stuck, t.end == 0:
		t.stuck, t.end = result.lowest, result.end
	}
	if t.missed = again; !again {
		t.at = now.Add(l.config.FullScan)
	}
}

func (l *loop) handleTailError(err error, now time.Time) error {
	t := &l.tail
	if l.stopping {
		return nil
	}
	if errors.Is(err, ErrNoLog) {
		t.create = true
		l.leaveLog(stagePoll, now)
		return nil
	}
	t.tries++
	t.at = now.Add(l.backoff(t.tries))
	lost := errors.Is(err, ErrLogLost)
	if errors.Is(err, ErrEventsLost) {
		return err
	}
	inUse := errors.Is(err, ErrLogInUse) && !t.began
	if !l.config.PollWithoutLog && (lost || inUse || sqldb.IsPermanent(l.table.explain(err))) {
		return err
	}
	if l.config.PollWithoutLog {
		l.report("read the log: polling meanwhile", err)
		t.create = t.create || lost
		if t.stage != stagePoll || lost {
			l.leaveLog(stagePoll, now)
		}
		return nil
	}
	l.report("read the log: trying again", err)
	switch {
	case t.made:
		l.leaveLog(stagePoll, now) // the slot has no mark yet, and is good all the same
	case t.stage != stagePoll:
		l.leaveLog(stageLook, now)
	}
	return nil
}

// readLog begins a read of the log.
func (l *loop) readLog(limit, bytes int) {
	reader, ctx := l.tail.reader, l.tail.ctx
	l.reading = true
	go func() {
		rows, err := reader.Next(ctx, limit, bytes)
		l.reads <- readResult{reader: reader, logged: rows, err: err}
	}()
}

// handleLogged queues what the log has shown.
func (l *loop) handleLogged(result readResult, now time.Time) error {
	t := &l.tail
	if l.stopping || result.reader != t.reader {
		return nil
	}
	if result.err != nil {
		l.report("read the log: trying again", result.err)
		l.leaveLog(stageLook, now)
		return nil
	}
	size := 0
	for i := range result.logged {
		r := result.logged[i].row()
		size += r.bytes
		parked := l.blocks[r.key()] != nil // otherwise Live had ended
		switch {
		case t.list[r.id], parked && r.unlisted() && !t.listing:
			t.waiting = append(t.waiting, result.logged[i])
			delete(t.list, r.id)
		case t.listing: // it comes again when Live begins anew
		case parked:
			t.reader.Done(r.id)
		default:
			q := l.queues[r.topic]
			if q == nil {
				q = &queue{topic: r.topic}
				l.queues[r.topic] = q
			}
			l.queueRow(q, r)
			if r.unlisted() {
				t.unlisted[r.id] = true
			}
		}
	}
	if n := len(result.logged); n > 0 {
		l.rowBytes = max(1, size/n)
	}
	return nil
}

// listed takes note of events that are in the table now.
func (l *loop) listed(rows []LogRow) {
	if l.tail.reader == nil {
		return
	}
	for i := range rows {
		l.tail.reader.Done(rows[i].ID)
	}
}

// insertLogged puts events into the table that were in the log only.
func (t *Table) insertLogged(ctx context.Context, db *sql.DB, logged []LogRow) error {
	if len(logged) == 0 {
		return nil
	}
	rows := make([]encoded, len(logged))
	for i := range logged {
		r := &logged[i]
		var metadata any
		if r.Metadata != "" {
			metadata = r.Metadata
		}
		c := &r.Record
		rows[i] = encoded{bytes: len(c.Value), args: [insertWidth]any{int64(r.Slot), r.Topic, []byte(c.Key), c.ID, c.Type, c.Source, r.Time, metadata, c.Value}}
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := t.Publisher(SQL(tx)).insertAll(ctx, rows); err != nil {
		return err
	}
	return tx.Commit()
}

// leaveLog closes the log, forgets what came from it, and goes on with another stage. The log is opened again at once if it
// was read for a while, otherwise after a pause.
func (l *loop) leaveLog(next stage, now time.Time) {
	t := &l.tail
	if t.reader != nil {
		if t.tries++; now.Sub(t.since) > l.config.RetryMost {
			t.tries = 0
		}
		if t.at = now; t.tries > 0 {
			t.at = now.Add(l.backoff(t.tries))
		}
		l.closeLog(t.reader)
		t.reader, t.unlisted = nil, nil
		for _, q := range l.queues {
			q.rows = l.dropRows(q.rows, func(*row) bool { return true })
		}
	}
	t.stage, t.since, t.drained = next, now, false
	l.log.restart()
}

// closeLog closes a reader. What the server did not hear of comes again.
func (l *loop) closeLog(reader LogReader) {
	if err := reader.Close(); err != nil && !l.stopping {
		l.report("close the log", err)
	}
}

// quiet reports whether no key waits, but for parked ones, and no topic.
func (l *loop) quiet() bool {
	for _, b := range l.blocks {
		if !b.parked || b.pending {
			return false
		}
	}
	for _, q := range l.queues {
		if q.closed || q.attempt > 0 && (q.busy || len(q.rows) > 0) {
			return false
		}
	}
	return true
}

// passEnded takes note of a pass that has found all. Where something waits, it has not: later rows of a key that waits
// were passed over.
func (l *loop) passEnded() {
	t := &l.tail
	if l.config.Log == nil || t.drained || !l.quiet() {
		return
	}
	if l.log.began.Equal(l.log.lastFull) && !l.log.began.Before(t.since) && len(l.log.slots) == Slots {
		t.drained = true
	} else {
		l.log.wantFull = true
	}
}

func (l *loop) parkedRows() (rows []int64) {
	for _, b := range l.blocks {
		rows = append(rows, b.next)
	}
	return rows
}

func rowsOf(parked []Parked) (rows []int64) {
	for _, p := range parked {
		rows = append(rows, p.Row)
	}
	return rows
}

// markOfParked stands for a set of parked keys, named by their rows.
func markOfParked(rows []int64) string {
	slices.Sort(rows)
	hash := fnv.New64a()
	for _, row := range rows {
		_, _ = fmt.Fprintln(hash, row)
	}
	return fmt.Sprintf("%d:%016x", len(rows), hash.Sum64())
}
