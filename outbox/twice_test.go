package outbox

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
)

// at is an event in a row.
func at(id int64, key, event string) *row {
	return &row{id: id, topic: "t", bytes: 10, record: framework.Record{ID: event, Key: key}}
}

// While an event is in memory that the database has forgotten, another under its number is not passed over for the next
// of its key, whether the pass is below it or above.
func TestNumberIsGivenTwice(t *testing.T) {
	for name, test := range map[string]struct {
		taken, sent bool // the forgotten event: out of the queue, and by the publisher
	}{
		"queued":        {},
		"being sent":    {taken: true},
		"to be deleted": {taken: true, sent: true},
	} {
		for _, cursor := range []int64{0, 8} {
			t.Run(name+map[int64]string{0: "", 8: ", above"}[cursor], func(t *testing.T) {
				l := newLoop(&Relay{config: RelayConfig{}.WithDefaults()}, newLease(nil, nil, "test", time.Second))
				l.mine = map[int]int64{0: 1}
				now := time.Now()
				// pass reads what is above and below a cursor, as read would.
				pass := func(cursor int64, table ...*row) {
					t.Helper()
					l.log.cursor = cursor
					result := readResult{caughtUp: true}
					for _, r := range table {
						if r.id > cursor {
							result.rows = append(result.rows, r)
						} else {
							result.below = append(result.below, r)
						}
					}
					if err := l.handleRead(result, now); err != nil {
						t.Fatal(err)
					}
				}
				// again is the pass that begins by itself, when it is due.
				again := func(table ...*row) {
					t.Helper()
					if now = now.Add(time.Hour); l.log.active || !l.log.due(now) {
						t.Fatal("no pass is due")
					}
					l.log.begin(now, l.floor(now), l.mine)
					l.reopen(now)
					pass(l.log.cursor, table...)
				}
				queued := func() (events []string) {
					if q := l.queues["t"]; q != nil {
						for _, r := range q.rows {
							events = append(events, r.record.ID)
						}
					}
					return events
				}
				l.log.begin(now, 0, l.mine)
				pass(0, at(7, "x", "forgotten"), at(8, "x", "forgotten too"))
				q := l.queues["t"]
				d := &delivery{topic: "t", group: q.rows[:1:1], sent: map[int64]bool{}, ctx: t.Context()}
				if test.taken {
					q.rows, q.busy = q.rows[1:], true
					l.sending++
				}
				if test.sent {
					d.sent[7] = true
					if err := l.handleSend(d, now); err != nil {
						t.Fatal(err)
					}
				}
				table := []*row{at(7, "k", "first"), at(8, "k", "second"), at(9, "k", "third")}
				l.log.begin(now, 0, l.mine)
				pass(cursor, table...)
				if l.log.active || slices.Contains(queued(), "second") || slices.Contains(queued(), "third") {
					t.Fatalf("%v are queued before the first", queued())
				}
				again(table...)
				if test.taken {
					if len(queued()) > 0 {
						t.Fatalf("%v are queued while the number is in memory", queued())
					}
					if !test.sent {
						d.outage = errLeaseOver // it is put aside
						if err := l.handleSend(d, now); err != nil {
							t.Fatal(err)
						}
					} else if err := l.handleWrite(writeResult{sent: l.sent}, now); err != nil {
						t.Fatal(err)
					}
				}
				again(table...)
				if want := []string{"first", "second", "third"}; !slices.Equal(queued(), want) || l.bytes != 30 || len(l.rows) != 3 {
					t.Errorf("queued %v, %d bytes, %d rows in memory", queued(), l.bytes, len(l.rows))
				}
			})
		}
	}
}

// Attempts are counted for an event: another one that has come in its place, under its number or behind it in its key, is
// parked neither for its failures nor with them.
func TestAttemptsOfAnEventThatIsGone(t *testing.T) {
	away := errors.New("away")
	now := time.Now()
	table, err := NewTable(Postgres, Config{})
	if err != nil {
		t.Fatal(err)
	}
	fail := func(t *testing.T, l *loop, q *queue, r *row) {
		t.Helper()
		if err := l.fail(q, failure{r, away}, now); err != nil {
			t.Fatal(err)
		}
	}
	rotate := func(t *testing.T, l *loop, q *queue, r *row) {
		t.Helper()
		q.taken++ // others of the topic were
		q.rows = []*row{r}
		l.rotate(q, []failure{{r, away}}, now)
	}
	for name, test := range map[string]struct {
		gone, next *row
		again      func(*testing.T, *loop, *queue, *row)
		attempts   int
	}{
		"under its number":              {at(7, "k", "gone"), at(7, "k", "next"), fail, 1},
		"behind it":                     {at(7, "k", "gone"), at(9, "k", "next"), fail, 1},
		"under its number, without key": {at(7, "", "gone"), at(7, "", "next"), fail, 1},
		"the topic takes nothing":       {at(7, "k", "gone"), at(7, "k", "next"), rotate, 0},
		"the same event": {at(7, "k", "next"), at(7, "k", "next"), func(t *testing.T, l *loop, q *queue, r *row) {
			fail(t, l, q, r)
			if len(l.parks) != 1 {
				t.Errorf("%d to be parked", len(l.parks))
			}
			l.parks = nil
		}, 3},
		"parked by another relay": {at(7, "k", "gone"), at(7, "k", "next"), func(_ *testing.T, l *loop, _ *queue, r *row) {
			l.reconcile([]Parked{{Row: r.id, Topic: r.topic, Key: r.record.Key, EventID: r.record.ID, Attempts: 1, RetryIn: -1}})
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLoop(&Relay{table: table, config: RelayConfig{ParkAfter: 3}.WithDefaults()}, newLease(nil, nil, "test", time.Second))
			l.mine = map[int]int64{0: 1}
			q := &queue{topic: "t"}
			for range 2 {
				fail(t, l, q, test.gone)
				l.blocks[test.gone.key()].open = true // a pass has begun below it
			}
			test.again(t, l, q, test.next)
			if b := l.blocks[test.next.key()]; b.attempts != test.attempts || b.eventID != "next" || b.next != test.next.id || len(l.parks) > 0 {
				t.Errorf("%+v, %d to be parked", b, len(l.parks))
			}
		})
	}
}

// A key that waits for an event that is gone is forgotten, also when another one is in memory under the number.
func TestKeyOfAnEventThatIsGone(t *testing.T) {
	l := newLoop(&Relay{config: RelayConfig{}.WithDefaults()}, newLease(nil, nil, "test", time.Second))
	for event, want := range map[string]int{"gone": 0, "next": 1} {
		l.blocks = map[keyID]*block{keyOf("t", "k", 7): {key: keyOf("t", "k", 7), next: 7, eventID: event, open: true}}
		l.rows = map[int64]knownRow{7: {0, "next"}}
		if l.forgetGone(); len(l.blocks) != want {
			t.Errorf("%s: %d keys wait", event, len(l.blocks))
		}
	}
}
