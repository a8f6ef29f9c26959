package outbox

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/framework"
)

// A key that waits takes no part in a pass in which one of its rows was passed over, however long the pass takes: a
// later row would come first.
func TestKeyThatWaitsSitsOutThePass(t *testing.T) {
	l := newLoop(&Relay{config: RelayConfig{}.WithDefaults()}, newLease(nil, nil, "test", time.Second))
	mine := map[int]int64{0: 1}
	l.mine = mine
	at := func(id int64) *row { return &row{id: id, topic: "t", record: framework.Record{Key: "k"}} }
	now := time.Now()
	l.blocks[at(5).key()] = &block{key: at(5).key(), next: 5, until: now.Add(time.Nanosecond), err: errors.New("away")}
	l.log.begin(now, 0, mine)
	l.reopen(now)
	if l.accept(at(5)) {
		t.Error("the row is taken before its time")
	}
	now = now.Add(time.Second)
	if l.accept(at(6)) {
		t.Error("a later row is taken in the same pass")
	}
	if floor := l.floor(now); floor > 4 {
		t.Errorf("the next pass begins at %d, above the row that waits", floor)
	}
	l.log.begin(now, l.floor(now), mine)
	l.reopen(now)
	if !l.accept(at(5)) || !l.accept(at(6)) || l.accept(at(6)) {
		t.Error("the next pass does not take each of them once")
	}
	// What was sent on when the lease ended is put aside with all behind it.
	q := l.queues["t"]
	d := &delivery{topic: "t", group: q.rows[:1:1], sent: map[int64]bool{}, outage: errLeaseOver, ctx: t.Context()}
	q.rows, q.busy = q.rows[1:], true
	l.sending++
	if err := l.handleSend(d, now); err != nil || len(q.rows) > 0 || !q.closed || q.next != 5 || len(l.rows) > 0 || l.bytes != 0 {
		t.Errorf("%v, %+v, %d rows in memory", err, q, len(l.rows))
	}
}

// A pass that leaves a closed topic out does not tell that the rows of its keys are gone.
func TestKeysOfClosedTopicsAreKept(t *testing.T) {
	l := newLoop(&Relay{config: RelayConfig{}.WithDefaults()}, newLease(nil, nil, "test", time.Second))
	for _, topic := range []string{"closed", "open"} {
		key := keyOf(topic, "k", 5)
		l.blocks[key] = &block{key: key, next: 5, open: true}
		l.queues[topic] = &queue{topic: topic, closed: topic == "closed", next: 10}
	}
	l.forgetGone()
	if l.blocks[keyOf("closed", "k", 5)] == nil || len(l.blocks) != 1 {
		t.Errorf("%d keys are left", len(l.blocks))
	}
}

// A pass that has taken long goes on from where it is, though a higher id was seen long ago.
func TestLongPassLeavesNothingOut(t *testing.T) {
	now := time.Now()
	p := newPasses(RelayConfig{Settle: time.Second, FullScan: time.Hour}.WithDefaults())
	p.begin(now, 0, nil)
	p.see(1_000_000)
	p.mark(now)
	p.cursor = 100
	now = now.Add(passTime + time.Second)
	p.read(now, 50, false)
	if p.active || !p.due(now) || p.settled(now) != 1_000_000 {
		t.Fatalf("active %v, due %v, settled %d", p.active, p.due(now), p.settled(now))
	}
	if p.begin(now, p.settled(now), nil); p.cursor > 100 {
		t.Errorf("the next pass begins at %d, above what was not read", p.cursor)
	}
}

// However many topics wait, and whatever the size of their rows, they leave half of the window to others.
func TestTopicsThatWaitLeaveRoom(t *testing.T) {
	table, err := NewTable(SQLite, Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ topics, rows, size int }{{1, 2000, 20_000}, {1, 9000, 10}, {11, 900, 10}, {40, 250, 60_000}} {
		config := RelayConfig{}.WithDefaults()
		l := newLoop(&Relay{table: table, config: config}, newLease(nil, nil, "test", time.Second))
		l.mine = map[int]int64{0: 1}
		now := time.Now()
		l.log.begin(now, 0, l.mine)
		for i := range test.topics * test.rows {
			topic := fmt.Sprint("topic-", i%test.topics)
			l.accept(&row{id: int64(i + 1), topic: topic, bytes: test.size, record: framework.Record{Key: "k"}})
		}
		for _, q := range l.queues {
			if err := l.wait(q, nil, &delivery{outage: errors.New("away")}, now); err != nil || len(q.rows) == 0 || q.rows[0].id > int64(test.topics) {
				t.Errorf("%+v: %v, %d rows are kept", test, err, len(q.rows))
			}
		}
		if len(l.rows) > config.WindowRows/2 || l.bytes > config.WindowBytes/2 {
			t.Errorf("%+v: %d rows and %d bytes stay in memory", test, len(l.rows), l.bytes)
		}
	}
}

// What was being read when a pass was ended, because slots went and came back for instance, is not taken.
func TestReadOfAnEndedPass(t *testing.T) {
	l := newLoop(&Relay{config: RelayConfig{}.WithDefaults()}, newLease(nil, nil, "test", time.Second))
	l.mine = map[int]int64{0: 1}
	now := time.Now()
	l.log.begin(now, 0, l.mine)
	l.reading = true
	l.log.restart()
	if err := l.handleRead(readResult{rows: []*row{{id: 7, topic: "t", record: framework.Record{Key: "k"}}}}, now); err != nil || len(l.rows) > 0 {
		t.Errorf("%v, %d rows in memory", err, len(l.rows))
	}
	if !l.log.due(now) || !l.log.begin(now, 100, l.mine) || l.log.cursor != 0 {
		t.Error("no pass begins at the first row")
	}
}

func TestPassesBeginWhereRowsHaveSettled(t *testing.T) {
	p := newPasses(RelayConfig{Settle: time.Second, FullScan: time.Minute}.WithDefaults())
	now := time.Now()
	if !p.begin(now, 7, nil) || p.cursor != 0 {
		t.Error("the first pass does not begin at the first row")
	}
	p.see(100)
	p.read(now, 1, true)
	if p.due(now) || p.settled(now) != 0 {
		t.Errorf("due %v, settled %d", p.due(now), p.settled(now))
	}
	now = now.Add(2 * time.Second)
	if !p.due(now) || p.settled(now) != 100 {
		t.Errorf("due %v, settled %d", p.due(now), p.settled(now))
	}
	p.see(200)
	if p.begin(now, p.settled(now), nil) || p.cursor != 100 {
		t.Errorf("begins at %d", p.cursor)
	}
	p.read(now, 0, true)
	if p.interval != 100*time.Millisecond {
		t.Errorf("an idle pass is followed after %v", p.interval)
	}
	p.wake()
	if !p.due(now) {
		t.Error("woken, and not due")
	}
	if now = now.Add(time.Minute); !p.begin(now, 200, nil) {
		t.Error("no full scan after a minute")
	}
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := new(Relay)
		for range 60 { // 200 a second for a minute
			r.counters.update(func(s *Stats) { s.Sent += 200 })
			time.Sleep(time.Second)
		}
		if rate := r.Stats().Rate; rate < 150 || rate > 250 {
			t.Errorf("%v a second", rate)
		}
		time.Sleep(time.Minute)
		if rate := r.Stats().Rate; rate != 0 {
			t.Errorf("%v a second, a minute later", rate)
		}
	})
}

// A pass looks at the whole table where little of it is in memory and nothing waits or is another's, and otherwise begins
// where rows have settled.
func TestPassBeginsAtTheFirstRowOfAShortTable(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct {
		rows, average, bytes int
		block                *block
		slots                int
		floor                int64
	}{
		"empty":                     {0, 1000, 0, nil, Slots, 0},
		"short":                     {60, 1000, 60_000, nil, Slots, 0},
		"long":                      {70, 1000, 70_000, nil, Slots, 100},
		"large rows":                {2, 40_000, 80_000, nil, Slots, 100},
		"sent, and not deleted":     {70, 1000, 0, nil, Slots, 100},
		"small rows were read last": {60, 300, 80_000, nil, Slots, 100},
		"a key waits":               {1, 1000, 1000, &block{next: 7, until: now.Add(time.Second)}, Slots, 6},
		"a key is parked":           {1, 1000, 1000, &block{next: 7, parked: true}, Slots, 100},
		"others have slots, too":    {1, 1000, 1000, nil, Slots - 1, 100},
	} {
		l := newLoop(&Relay{config: RelayConfig{Settle: time.Second}.WithDefaults()}, newLease(nil, nil, "test", time.Second))
		l.log.see(100)
		l.log.mark(now.Add(-2 * time.Second))
		l.rowBytes, l.bytes = test.average, test.bytes
		for slot := range test.slots {
			l.mine[slot] = 1
		}
		for i := range test.rows {
			l.rows[int64(i+101)] = knownRow{}
		}
		if test.block != nil {
			l.blocks[keyOf("t", "k", 7)] = test.block
		}
		if floor := l.floor(now); floor != test.floor {
			t.Errorf("%s: it begins behind %d, not %d", name, floor, test.floor)
		}
	}
}
