package outbox

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
)

// fakeReader is a reader that shows nothing.
type fakeReader struct {
	done    []int64
	reached uint64
	closed  bool
	err     error // of Close
}

func (f *fakeReader) Next(context.Context, int, int) ([]LogRow, error) { return nil, nil }
func (f *fakeReader) Done(ids ...int64)                                { f.done = append(f.done, ids...) }
func (f *fakeReader) Reached() uint64                                  { return f.reached }
func (f *fakeReader) Close() error                                     { f.closed = true; return f.err }

// fakeLog is a log that is not asked.
type fakeLog struct{ Log }

// live is a loop that reads the log and has all slots.
func live(t *testing.T) (*loop, *fakeReader) {
	t.Helper()
	table, err := NewTable(Postgres, Config{})
	if err != nil {
		t.Fatal(err)
	}
	l := newLoop(&Relay{table: table, config: RelayConfig{Log: fakeLog{}}.WithDefaults()}, newLease(nil, nil, "test", time.Second))
	reader := new(fakeReader)
	l.sendCtx, l.cutSend = context.WithCancel(t.Context())
	l.lease.until = time.Now().Add(time.Hour)
	for slot := range Slots {
		l.lease.epochs[slot] = 1
		l.mine[slot] = 1
	}
	l.tail = tailing{stage: stageLive, reader: reader, unlisted: map[int64]bool{}, at: time.Now().Add(time.Hour)}
	return l, reader
}

func logged(id int64, key string) LogRow {
	return LogRow{ID: id, Topic: "t", Record: framework.Record{ID: key, Key: key}}
}

// What the log shows is queued in its order; what is behind a parked key stays in the table, and the slot may move past it.
func TestLogBehindParkedKey(t *testing.T) {
	l, reader := live(t)
	key := keyOf("t", "parked", 1)
	l.blocks[key] = &block{key: key, next: 1, parked: true}
	result := readResult{reader: reader, logged: []LogRow{logged(9, "a"), logged(3, "parked"), logged(4, "a")}}
	if err := l.handleLogged(result, time.Now()); err != nil {
		t.Fatal(err)
	}
	q := l.queues["t"]
	if len(q.rows) != 2 || q.rows[0].id != 9 || q.rows[1].id != 4 || !slices.Equal(reader.done, []int64{3}) {
		t.Errorf("queued %+v, done %v", q.rows, reader.done)
	}
}

// A slot that was another relay's for a moment is no reason to go on: rows of it were forgotten.
func TestSlotGoesAndComesBackWhileTheLogIsRead(t *testing.T) {
	l, reader := live(t)
	now := time.Now()
	if err := l.handleLogged(readResult{reader: reader, logged: []LogRow{logged(1, "a"), logged(2, "b")}}, now); err != nil {
		t.Fatal(err)
	}
	l.lease.epochs[0] = 2
	l.tail.busy = true // so that it does not go on to look
	l.watchLease(t.Context(), now)
	l.watchTail(now)
	if !reader.closed || l.tail.stage != stageLook || len(l.rows) > 0 || l.bytes != 0 {
		t.Errorf("closed %v, stage %v, %d rows in memory", reader.closed, l.tail.stage, len(l.rows))
	}
}

// A key that is not taken closes the log, and what it had shown is forgotten but for what is being sent.
func TestFailureClosesTheLog(t *testing.T) {
	l, reader := live(t)
	now := time.Now()
	if err := l.handleLogged(readResult{reader: reader, logged: []LogRow{logged(1, "a"), logged(2, "b"), logged(-3, "c")}}, now); err != nil {
		t.Fatal(err)
	}
	q := l.queues["t"]
	d := &delivery{relay: l.Relay, topic: "t", group: q.rows[:1:1], sent: map[int64]bool{}, ctx: t.Context(), failed: []failure{{q.rows[0], errors.New("away")}}}
	q.rows, q.busy = q.rows[1:], true
	l.sending++
	if err := l.handleSend(d, now); err != nil {
		t.Fatal(err)
	}
	l.watchTail(now)
	if !reader.closed || l.tail.stage != stagePoll || len(l.rows) > 0 || !l.tail.listing || !l.tail.list[-3] || l.log.active || !l.log.due(now) {
		t.Errorf("closed %v, stage %v, %d rows in memory, list %v", reader.closed, l.tail.stage, len(l.rows), l.tail.list)
	}
	if stale := (readResult{reader: reader, logged: []LogRow{logged(4, "a")}}); l.handleLogged(stale, now) != nil || len(l.rows) > 0 {
		t.Error("what a closed log had shown is taken")
	}
}

// What a pass has passed over since its key or topic waited, and what was put aside after it, has not been found: the log is
// not read before another pass has, also when the first row of the key was sent meanwhile. Its later rows would come after
// what the log shows.
func TestPassInWhichSomethingWaitsHasNotFoundAll(t *testing.T) {
	l, _ := live(t)
	l.tail = tailing{made: true, busy: true} // busy: so that it does not go on
	now := time.Now()
	key := keyOf("t", "k", 1)
	waits := func() { l.blocks[key] = &block{key: key, next: 1, until: now.Add(time.Hour)} }
	sent := func() { delete(l.blocks, key); l.watchTail(now) }
	pass := func() {
		now = now.Add(time.Second)
		if !l.log.begin(now, 0, l.mine) {
			t.Error("the pass did not begin at the first row")
		}
		at := func(id int64, key string) *row { return &row{id: id, topic: "t", record: framework.Record{Key: key}} }
		result := readResult{rows: []*row{at(1, "k"), at(2, "k"), at(3, "other")}, caughtUp: true}
		if err := l.handleRead(result, now); err != nil {
			t.Fatal(err)
		}
	}
	waits()
	pass()
	sent()
	if l.tail.drained || l.rows[2] != (knownRow{}) || len(l.rows) != 1 {
		t.Errorf("a pass that has passed rows over has found all: %v", l.rows)
	}
	l.log.wantFull = true
	pass()
	l.watchTail(now)
	if !l.tail.drained {
		t.Error("a pass in which nothing waited has not found all")
	}
	waits()
	l.watchTail(now)
	sent()
	if l.tail.drained {
		t.Error("rows that were put aside after the pass count as found")
	}
}

// A row that is still in the table after the log was read past it closes the log, unless it was being deleted just then.
func TestRowThatTheLogHasPassed(t *testing.T) {
	for name, test := range map[string]struct {
		lowest []int64 // in the table, at one look after the other
		memory []bool  // whether it is in memory when the answer comes
		left   bool
	}{
		"deleted while it was looked for": {[]int64{1, 1, 2, 2}, []bool{true, false, true, true}, false},
		"missing":                         {[]int64{1, 1, 1}, []bool{false, false, false}, true},
		"slow":                            {[]int64{1, 1, 1, 1}, []bool{true, true, true, true}, false},
		"slow, and deleted":               {[]int64{1, 1, 1, 0}, []bool{true, true, false, false}, false},
		"deleted, one after the other":    {[]int64{1, 1, 2, 2, 3, 3}, []bool{true, false, true, false, true, false}, false},
	} {
		t.Run(name, func(t *testing.T) {
			l, reader := live(t)
			l.config.Logger, reader.reached, l.tail.mark = slog.New(slog.DiscardHandler), 10, markOfParked(nil)
			for i, lowest := range test.lowest {
				delete(l.rows, lowest)
				if test.memory[i] {
					l.rows[lowest] = knownRow{}
				}
				l.tail.busy = true
				if err := l.handleTail(tailResult{lowest: lowest, end: 10}, time.Now()); err != nil {
					t.Fatal(err)
				}
			}
			if reader.closed != test.left {
				t.Errorf("closed %v, not %v", reader.closed, test.left)
			}
		})
	}
}

// A log that opens too late is closed, and that it could not say its last word ends nothing.
func TestLogThatOpensTooLate(t *testing.T) {
	l, _ := live(t)
	l.config.Logger = slog.New(slog.DiscardHandler)
	l.tail = tailing{stage: stagePoll, busy: true}
	late := &fakeReader{err: errors.New("broken pipe")}
	if err := l.handleTail(tailResult{reader: late}, time.Now()); err != nil || !late.closed || l.tail.reader != nil || l.tail.busy {
		t.Errorf("%v, closed %v", err, late.closed)
	}
}

// A relay that reads the log has all slots or none; one that has most stays.
func TestShareOfSlots(t *testing.T) {
	var slots [Slots]slotRow
	for i := range slots {
		slots[i].owner = "log/b"
	}
	var free [Slots]slotRow
	for _, test := range []struct {
		owners []string
		slots  [Slots]slotRow
		want   []int
	}{
		{[]string{"a", "b", "c"}, free, []int{6, 6, 6}},
		{[]string{"a", "log/b", "log/c"}, free, []int{0, 16, 0}},
		{[]string{"log/a", "log/b", "c"}, slots, []int{0, 16, 0}},
		{[]string{"log/a", "c"}, slots, []int{16, 0}},
	} {
		for i, owner := range test.owners {
			if got := shareOf(owner, test.owners, test.slots); got != test.want[i] {
				t.Errorf("of %v %s gets %d, not %d", test.owners, owner, got, test.want[i])
			}
		}
	}
}

func TestLogIsForPostgres(t *testing.T) {
	table, err := NewTable(SQLite, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewRelay(table, nil, nil, RelayConfig{Log: fakeLog{}}); err == nil {
		t.Error("a log of SQLite's")
	}
	if err := (RelayConfig{PollWithoutLog: true}).Validate(); err == nil {
		t.Error("PollWithoutLog without a Log")
	}
}
