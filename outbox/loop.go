package outbox

import (
	"context"
	"time"

	"github.com/millrace/millrace/internal/sqldb"
)

// readRows is how many rows are read at once, if they are small. Each read looks at what was deleted and is not yet
// vacuumed, too, which fewer reads do less often.
const readRows = 5000

// rereadBytes is how much of what is in memory a pass may read again, rather than look below in a statement of its own.
const rereadBytes = 64 << 10

// passTime is after how long a pass that has found something begins anew, so that rows which appear behind it do not
// wait until it has caught up with busy writers.
const passTime = time.Second

// loop is one Run of a relay: a goroutine that owns all that is known about rows, and starts others to read (one at a
// time), to send (one for each topic) and to write (one at a time). They bring back a result and know nothing.
//
// It reads in passes, upwards from a floor. A row is passed over while it is in memory; it is put aside when its key or
// topic waits, and then comes again in a pass that begins below it.
type loop struct {
	*Relay
	lease *lease
	log   passes
	tail  tailing

	mine     map[int]int64      // epochs of the slots whose rows are read
	rows     map[int64]knownRow // what is in memory: read, and not yet deleted
	bytes    int                // of those that are not yet sent
	queues   map[string]*queue
	blocks   map[keyID]*block
	sent     []sentRow // to be deleted
	parks    []*block  // to be written down
	rowBytes int       // of an average row of the last read

	reading, writing bool
	sending          int
	done             []writeResult // written while something was being read; see settle
	stopping         bool
	statsAt          time.Time
	readTry          int
	writeTry         int
	writeAt          time.Time // not before

	sendCtx context.Context
	cutSend context.CancelFunc
	reads   chan readResult
	sends   chan *delivery
	writes  chan writeResult
}

// knownRow is what is known of a row in memory beside its number.
type knownRow struct {
	slot  int
	event string
}

func newLoop(r *Relay, l *lease) *loop {
	return &loop{
		Relay: r, lease: l, rows: map[int64]knownRow{}, queues: map[string]*queue{}, blocks: map[keyID]*block{}, mine: map[int]int64{},
		log: newPasses(r.config), rowBytes: 1024, tail: tailing{partial: true, results: make(chan tailResult, 1)},
		reads: make(chan readResult, 1), sends: make(chan *delivery), writes: make(chan writeResult, 1),
	}
}

// run is the loop. It returns when nothing of it is running any more.
func (l *loop) run(ctx context.Context) (err error) {
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	l.sendCtx, l.cutSend = context.WithCancel(work)
	l.tail.ctx, l.tail.stop = context.WithCancel(work)
	done := ctx.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := time.Now()
		l.watchLease(work, now)
		l.watchTail(now)
		if !l.stopping {
			l.startSends(now)
			l.startRead(work, now)
		}
		l.startWrite(work, now)
		l.publishStats(now)
		if l.stopping && !l.reading && l.sending == 0 && !l.writing && !l.tail.busy {
			l.leaveLog(stagePoll, now)
			return err
		}
		timer.Reset(max(0, time.Until(l.nextTime(now))))
		fatal := error(nil)
		select {
		case <-done:
			done = nil
			l.stopping = true
			l.tail.stop()
			time.AfterFunc(l.config.StopTimeout, cut)
		case result := <-l.reads:
			fatal = l.handleRead(result, time.Now())
		case d := <-l.sends:
			fatal = l.handleSend(d, time.Now())
		case result := <-l.writes:
			fatal = l.handleWrite(result, time.Now())
		case result := <-l.tail.results:
			fatal = l.handleTail(result, time.Now())
		case <-l.wake:
			l.log.wake()
		case <-l.lease.changed:
		case <-timer.C:
		}
		if fatal != nil && err == nil {
			err, l.stopping = fatal, true
			l.tail.stop()
			time.AfterFunc(l.config.StopTimeout, cut)
		}
	}
}

// nextTime is when something is due that no result will tell of.
func (l *loop) nextTime(now time.Time) time.Time {
	next := now.Add(time.Hour)
	earlier := func(t time.Time) {
		if t.After(now) && t.Before(next) {
			next = t
		}
	}
	_, _, until := l.lease.held()
	earlier(until)
	if !l.log.active {
		earlier(l.log.at)
	}
	for _, q := range l.queues {
		earlier(q.retryAt)
	}
	earlier(l.writeAt)
	earlier(l.tail.at)
	return next
}

// watchLease takes note of slots that have come and gone.
func (l *loop) watchLease(work context.Context, now time.Time) {
	epochs, leaving, until := l.lease.held()
	if !now.Before(until) {
		epochs = nil
		if l.sendCtx.Err() == nil {
			l.cutSend()
		}
	} else if l.sendCtx.Err() != nil && work.Err() == nil {
		l.sendCtx, l.cutSend = context.WithCancel(work)
	}
	for slot, epoch := range l.mine {
		if now, ok := epochs[slot]; !ok || now != epoch {
			l.dropSlot(slot)
			delete(l.mine, slot)
			l.tail.partial = true // also when it is back in the same moment: rows of it were dropped
		}
	}
	for slot, epoch := range epochs {
		if _, ok := l.mine[slot]; !ok {
			l.mine[slot] = epoch
			l.log.restart() // rows of it are taken by a pass that begins now
		}
	}
	for _, slot := range leaving {
		if !l.holds(slot) {
			l.lease.giveUp(slot)
		}
	}
}

func (l *loop) holds(slot int) bool {
	for _, known := range l.rows {
		if known.slot == slot {
			return true
		}
	}
	return false
}

// dropSlot forgets what is known about a slot, but for what is being sent or deleted.
func (l *loop) dropSlot(slot int) {
	for _, q := range l.queues {
		q.rows = l.dropRows(q.rows, func(r *row) bool { return r.slot == slot })
	}
	for key, b := range l.blocks {
		if b.slot == slot {
			delete(l.blocks, key)
		}
	}
}

// dropRows forgets those rows of a queue that are to be dropped, and returns the others.
func (l *loop) dropRows(rows []*row, drop func(*row) bool) []*row {
	kept := rows[:0]
	for _, r := range rows {
		if drop(r) {
			l.forget(r)
			continue
		}
		kept = append(kept, r)
	}
	clear(rows[len(kept):])
	return kept
}

// forget lets go of a row that stays in the table.
func (l *loop) forget(r *row) {
	delete(l.rows, r.id)
	l.bytes -= r.bytes
}

// startRead begins the next read, and a new pass if it is time for one.
func (l *loop) startRead(ctx context.Context, now time.Time) {
	if l.reading || len(l.mine) == 0 || len(l.rows) >= l.config.WindowRows || l.bytes >= l.config.WindowBytes {
		return
	}
	switch l.tail.stage {
	case stageLook, stageSettle:
		return
	case stageLive:
		if len(l.tail.waiting) > 0 || l.writing && l.tail.listing {
			return
		}
		l.readLog(min(readRows, l.config.WindowRows-len(l.rows)), l.config.WindowBytes-l.bytes)
		return
	}
	refresh := false
	if !l.log.active {
		if !l.log.due(now) {
			return
		}
		refresh = l.log.begin(now, l.floor(now), l.mine)
		if refresh {
			l.tail.drained = false // parked keys may be resumed by it
		}
		l.reopen(now)
	}
	room := l.config.WindowBytes - l.bytes
	request := readRequest{
		after: l.log.cursor, bytes: room, slots: l.log.slots, refresh: refresh,
		limit: min(readRows, l.config.WindowRows-len(l.rows), max(1, room/l.rowBytes)),
	}
	for key, b := range l.blocks {
		request.parked = request.parked || b.parked
		if !b.open {
			if request.waiting == nil {
				request.waiting = make(map[keyID]bool, len(l.blocks))
			}
			request.waiting[key] = true
		}
	}
	for _, q := range l.queues {
		if q.closed {
			request.closed = append(request.closed, q.topic)
		}
	}
	l.reading = true
	go func() { l.reads <- l.read(ctx, request) }()
}

// floor is where a pass may begin: below all that was put aside. It is the first row where little of what is in memory
// would be read again, and nothing else is in the table that is not to be read, of other relays' slots or behind parked
// keys: then one statement tells all.
func (l *loop) floor(now time.Time) int64 {
	if max(l.bytes, len(l.rows)*l.rowBytes) <= rereadBytes && len(l.blocks) == 0 && len(l.mine) == Slots && l.quiet() {
		return 0
	}
	floor := l.log.settled(now)
	for _, b := range l.blocks {
		if !b.parked {
			floor = min(floor, b.next-1)
		}
	}
	for _, q := range l.queues {
		if q.closed {
			floor = min(floor, q.next-1)
		}
	}
	return floor
}

// reopen lets keys and topics take part in the pass that begins.
func (l *loop) reopen(now time.Time) {
	for _, b := range l.blocks {
		if !b.parked && !now.Before(b.until) {
			b.open = true
		}
	}
	for topic, q := range l.queues {
		if q.closed && (q.attempt == 0 || len(q.rows) == 0 && !q.busy) {
			q.closed = false
		}
		if !q.busy && !q.closed && q.attempt == 0 && len(q.rows) == 0 {
			delete(l.queues, topic)
		}
	}
}

func (l *loop) handleRead(result readResult, now time.Time) error {
	l.reading = false
	if result.reader != nil {
		l.settle()
		return l.handleLogged(result, now)
	}
	defer l.settle()
	if result.err != nil {
		err := l.table.explain(result.err)
		if sqldb.IsPermanent(err) {
			return err
		}
		l.readTry++
		l.log.fail(now.Add(l.backoff(l.readTry)))
		if !l.stopping {
			l.report("read", err)
		}
		return nil
	}
	l.readTry = 0
	if l.stopping || !l.log.active {
		return nil // the pass was ended meanwhile: rows below these may have been put aside
	}
	if result.request.refresh {
		l.reconcile(result.parked)
	}
	for _, r := range result.below {
		if l.unknown(r) {
			l.log.late(r.id)
		}
	}
	if result.flooded {
		l.log.restart()
	}
	if !l.log.active {
		return nil // what was read may be of the same keys, and has to come after it
	}
	fresh, size := 0, 0
	for _, r := range result.rows {
		if l.givenTwice(r) {
			l.waitForNumber(r.id, now)
			return nil
		}
		size += r.bytes
		if l.accept(r) {
			fresh++
		}
	}
	if n := len(result.rows); n > 0 {
		l.log.cursor = result.rows[n-1].id
		l.rowBytes = max(1, size/n)
	}
	if result.caughtUp {
		l.forgetGone()
	}
	l.log.read(now, fresh, result.caughtUp)
	if result.caughtUp {
		l.passEnded()
	}
	return nil
}
