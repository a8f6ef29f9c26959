package pgtail_test

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/sqldb"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
)

var errAway = errors.New("the broker is away")

// Fault 9: a topic takes nothing for a while, and writers go on. The relay polls meanwhile, what it holds in memory is
// bounded, and then all comes in order, and from the log again.
func TestTopicTakesNothing(t *testing.T) {
	d := open(t, sqltest.Postgres(t))
	o, s := newOracle(), newSink()
	config := d.quick()
	config.WindowRows, config.BatchRows = 100, 10
	relay, stop := d.start(t, s, config)
	put := func(from, to int) {
		for n := from; n < to; n++ {
			r := []framework.Record{event("a", n), event("b", n), event(fmt.Sprint("key", n), n)}
			d.write(t, r...)
			o.commit(r...)
		}
	}
	tailing(t, relay)
	for round := range 3 {
		s.setFail(func(context.Context, string, []framework.Record) error { return errAway })
		put(round*100, round*100+50)
		eventually(t, "the topic has been tried a few times", func() bool { return relay.Stats().Retries >= int64(5*(round+1)) })
		put(round*100+50, round*100+100)
		if rows := relay.Stats().Rows; rows > config.WindowRows {
			t.Errorf("%d rows in memory, WindowRows is %d", rows, config.WindowRows)
		}
		s.setFail(nil)
		s.waitFor(t, o.size)
		tailing(t, relay)
	}
	put(300, 310)
	s.waitFor(t, o.size)
	eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
	stop()
	if duplicates := o.check(t, s.snapshot()); duplicates > 0 {
		t.Errorf("%d duplicates", duplicates)
	}
}

// Fault 10: an event that is never taken stops its key only, and the log is read on. What is behind it comes in order once
// the key is resumed, also when that is done while no relay runs.
func TestPoisonEvent(t *testing.T) {
	d := open(t, sqltest.Postgres(t))
	o, s := newOracle(), newSink()
	var mended atomic.Bool
	s.setFail(func(_ context.Context, _ string, records []framework.Record) error {
		if !mended.Load() && slices.ContainsFunc(records, func(r framework.Record) bool { return strings.HasPrefix(string(r.Value), "poison") }) {
			return framework.Permanent(errors.New("poison"))
		}
		return nil
	})
	put := func(records ...framework.Record) { d.write(t, records...); o.commit(records...) }
	relay, stop := d.start(t, s, d.quick())
	tailing(t, relay)
	parked := func() (all []outbox.Parked) {
		eventually(t, "the key is parked", func() bool {
			var err error
			all, err = d.table.Parked(t.Context(), d.DB, 10)
			return err == nil && len(all) == 1
		})
		return all
	}
	come := 0
	for round, resume := range []func(p outbox.Parked){
		func(p outbox.Parked) { // while it runs
			if err := d.table.Resume(t.Context(), d.DB, p.Row, p.EventID); err != nil {
				t.Fatal(err)
			}
		},
		func(p outbox.Parked) { // while it is down
			stop()
			if err := d.table.Resume(t.Context(), d.DB, p.Row, p.EventID); err != nil {
				t.Fatal(err)
			}
			put(event("bad", 1_000_000))
			relay, stop = d.start(t, s, d.quick())
		},
	} {
		mended.Store(false)
		base := round * 100
		put(event("bad", base), framework.Record{ID: fmt.Sprint("poison-", round), Key: "bad", Value: []byte("poison")}, event("bad", base+1), event("good", base))
		row := parked()[0]
		s.waitFor(t, come+2)
		reader := d.reader(t)
		for n := 1; n < 20; n++ {
			put(event("bad", base+10+n), event("good", base+n))
		}
		come += 1 + 20
		s.waitFor(t, come)
		d.slotMoves(t) // past what waits in the table
		if now := d.reader(t); row.EventID != fmt.Sprint("poison-", round) || now != reader {
			t.Errorf("parked %+v, reader %s, then %s", row, reader, now)
		}
		mended.Store(true)
		resume(row)
		s.waitFor(t, o.size)
		tailing(t, relay)
		come = o.size
	}
	put(event("bad", 500), event("good", 500))
	s.waitFor(t, o.size)
	eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
	stop()
	if duplicates := o.check(t, s.snapshot()); duplicates > 0 {
		t.Errorf("%d duplicates", duplicates)
	}
}

// Polling and tailing take turns, while events are written by writers that wait for each other per key: nothing is lost,
// nothing comes twice, the order is kept.
func TestSwitching(t *testing.T) {
	d := open(t, sqltest.Postgres(t))
	o, s := newOracle(), newSink()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writing sync.WaitGroup
	for w := range 2 {
		writing.Go(func() {
			pace := time.NewTicker(2 * time.Millisecond)
			defer pace.Stop()
			for n := 0; ctx.Err() == nil; n++ {
				<-pace.C
				r := event(fmt.Sprint("w", w), n)
				if err := d.InTx(context.Background(), func(tx *sql.Tx) error { return d.publish(tx, r) }); err != nil {
					t.Error(err)
					return
				}
				o.commit(r)
			}
		})
	}
	for round := range 6 {
		config := d.quick()
		if round%2 == 1 {
			config.Log = nil
		}
		relay, stop := d.start(t, s, config)
		if config.Log != nil {
			tailing(t, relay)
		}
		s.waitFor(t, len(s.snapshot())+100)
		stop()
	}
	cancel()
	writing.Wait()
	_, stop := d.start(t, s, d.quick())
	s.waitFor(t, o.size)
	eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
	stop()
	duplicates := o.check(t, s.snapshot())
	t.Logf("%d events, %d duplicates", o.size, duplicates)
	if duplicates > 0 {
		t.Errorf("%d duplicates", duplicates)
	}
}

// One relay reads the log and has all slots; another one, and one that polls, wait, and take over when it goes.
func TestOneReads(t *testing.T) {
	d := open(t, sqltest.Postgres(t))
	o, s := newOracle(), newSink()
	put := func(from, to int) {
		for n := from; n < to; n++ {
			r := []framework.Record{event("a", n), event(fmt.Sprint("key", n), n)}
			d.write(t, r...)
			o.commit(r...)
		}
	}
	polling := d.quick()
	polling.Log = nil
	polls, stopPolling := d.start(t, s, polling)
	eventually(t, "the relay that polls has all slots", func() bool { return polls.Stats().Slots == outbox.Slots })
	put(0, 50)
	first, stopFirst := d.start(t, s, d.quick())
	tailing(t, first)
	second, stopSecond := d.start(t, s, d.quick())
	put(50, 100)
	s.waitFor(t, o.size)
	eventually(t, "the reader has all slots, the others none", func() bool {
		return polls.Stats().Slots == 0 && second.Stats().Slots == 0 && first.Stats().Slots == outbox.Slots
	})
	stopFirst()
	put(100, 150)
	tailing(t, second)
	put(150, 200)
	s.waitFor(t, o.size)
	eventually(t, "the second has all slots, the one that polls none", func() bool {
		return polls.Stats().Slots == 0 && second.Stats().Slots == outbox.Slots
	})
	stopSecond()
	put(200, 250)
	s.waitFor(t, o.size)
	stopPolling()
	if duplicates := o.check(t, s.snapshot()); duplicates > 0 {
		t.Errorf("%d duplicates", duplicates)
	}
}

// largeRows is how many rows TestLargeTransaction writes in one transaction.
var largeRows = flag.Int("rows", 40_000, "rows of the large transaction")

// Fault 12: of a large transaction, of one that is rolled back, and of a savepoint that is, just what was committed is
// sent, and memory does not depend on how much it is.
func TestLargeTransaction(t *testing.T) {
	const size = 1000
	rows := *largeRows
	d := open(t, sqltest.Postgres(t))
	s := newSink()
	var heap, count atomic.Uint64
	first := map[string]int{} // by key, the last number
	s.setFail(func(_ context.Context, _ string, records []framework.Record) error {
		for _, r := range records {
			var n int
			if _, err := fmt.Sscanf(r.ID, "event-%d", &n); err != nil {
				t.Errorf("%s was sent", r.ID)
			}
			if last, ok := first[r.Key]; ok && n <= last {
				t.Errorf("key %s: %d after %d", r.Key, n, last)
			}
			first[r.Key] = n
		}
		if before := count.Load(); count.Add(uint64(len(records)))/10_000 > before/10_000 {
			runtime.GC()
			var stats runtime.MemStats
			runtime.ReadMemStats(&stats)
			heap.Store(max(heap.Load(), stats.HeapAlloc))
		}
		return errTaken
	})
	config := d.quick()
	config.Lease = time.Minute // one that is lost on a busy machine brings duplicates
	relay, stop := d.start(t, forgetful{s}, config)
	tailing(t, relay)
	insert := func(tx *sql.Tx, name string, n int) {
		if _, err := tx.Exec(fmt.Sprintf(`INSERT INTO %s (topic, event_key, event_id, payload)
SELECT 'events', convert_to('key-' || i %% 100, 'UTF8'), '%s-' || i, convert_to(repeat('x', %d), 'UTF8') FROM generate_series(1, %d) i`, d.Name, name, size, n)); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := d.InTx(t.Context(), func(tx *sql.Tx) error { insert(tx, "rolled", 1000); return errAway }); !errors.Is(err, errAway) {
		t.Fatal(err)
	}
	if err := d.InTx(t.Context(), func(tx *sql.Tx) error {
		insert(tx, "event", rows)
		if _, err := tx.Exec("SAVEPOINT s"); err != nil {
			return err
		}
		insert(tx, "savepoint", 1000)
		_, err := tx.Exec("ROLLBACK TO SAVEPOINT s")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for before := uint64(0); before < uint64(rows); before = count.Load() { // it may take its time, and must not stand still
		eventually(t, "more is sent", func() bool { return count.Load() > before })
	}
	eventually(t, "all is deleted", func() bool { return d.count(t) == 0 })
	d.slotMoves(t)
	if !relay.Stats().Tailing || relay.Stats().Err != nil {
		t.Errorf("%+v", relay.Stats())
	}
	stop()
	if n := count.Load(); n != uint64(rows) {
		t.Errorf("%d rows were sent, not %d", n, rows)
	}
	const bound = 32 << 20
	t.Logf("heap before %d MiB, at most %d MiB, of a transaction of %d MiB", before.HeapAlloc>>20, heap.Load()>>20, rows*size>>20)
	if heap.Load() > before.HeapAlloc+bound {
		t.Errorf("the heap grew by more than %d MiB", bound>>20)
	}
}

var errTaken = errors.New("taken, and not kept")

// forgetful is a sink that keeps nothing.
type forgetful struct{ *sink }

func (f forgetful) Publish(ctx context.Context, topic string, records []framework.Record) error {
	if err := f.sink.Publish(ctx, topic, records); !errors.Is(err, errTaken) {
		return err
	}
	return nil
}

// A row that is in the table and not in the log, since somebody has changed the publication for a while, is found.
func TestRowThatTheLogDoesNotShow(t *testing.T) {
	d := open(t, sqltest.Postgres(t))
	o, s := newOracle(), newSink()
	relay, stop := d.start(t, s, d.quick())
	tailing(t, relay)
	put := func(r framework.Record) { d.write(t, r); o.commit(r) }
	put(event("k", 1))
	s.waitFor(t, 1)
	d.exec(t, "ALTER PUBLICATION "+d.slot()+" SET (publish = 'delete')")
	put(event("k", 2))
	d.exec(t, "ALTER PUBLICATION "+d.slot()+" SET (publish = 'insert')")
	s.waitFor(t, 2)
	tailing(t, relay)
	put(event("k", 3))
	s.waitFor(t, 3)
	stop()
	o.check(t, s.snapshot())
}

// An event is not sent before others see its transaction, however early the log has it: a synchronous replica may not
// have it yet.
func TestNothingIsSentBeforeItIsVisible(t *testing.T) {
	server := services.OwnPostgres(t)
	d := open(t, sqltest.Open(t, sqldb.Postgres, "pgx", server.Address))
	o, s := newOracle(), newSink()
	relay, stop := d.start(t, s, d.quick())
	tailing(t, relay)
	d.exec(t, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
	reset := sync.OnceFunc(func() {
		d.exec(t, "ALTER SYSTEM RESET synchronous_standby_names")
		d.exec(t, "SELECT pg_reload_conf()")
	})
	defer reset()
	d.exec(t, "SELECT pg_reload_conf()")
	conn, err := d.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var pid int
	if err := conn.QueryRowContext(t.Context(), "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	waits := func() bool {
		var event sql.NullString
		err := d.QueryRow("SELECT wait_event FROM pg_stat_activity WHERE pid = $1", pid).Scan(&event)
		return err == nil && event.String == "SyncRep"
	}
	var r framework.Record
	committed := make(chan error, 1)
	for n, waiting := 1, false; !waiting; n++ { // the setting takes effect some time after the reload
		r = event("k", n)
		if _, err := conn.ExecContext(t.Context(), "BEGIN"); err != nil {
			t.Fatal(err)
		}
		if err := d.table.Publisher(outbox.SQL(conn)).Publish(t.Context(), "events", r); err != nil {
			t.Fatal(err)
		}
		go func() { _, err := conn.ExecContext(context.Background(), "COMMIT"); committed <- err }()
		returned := false
		eventually(t, "the commit waits for the replica, or returns", func() bool {
			waiting = waits()
			select {
			case err := <-committed:
				if returned = true; err != nil {
					t.Fatal(err)
				}
				o.commit(r)
			default:
			}
			return waiting || returned
		})
		waiting = waiting && !returned
	}
	s.waitFor(t, o.size)
	eventually(t, "the log was sent past the commit", func() bool {
		var past bool
		err := d.QueryRow(`SELECT sent_lsn >= pg_current_wal_flush_lsn() FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid WHERE slot_name = $1`, d.slot()).Scan(&past)
		return err == nil && past
	})
	hold := time.NewTimer(200 * time.Millisecond) // in which it would be sent
	<-hold.C
	if all := s.snapshot(); len(all) > o.size {
		t.Errorf("%d events were sent of a transaction that nobody sees", len(all)-o.size)
	}
	reset()
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	o.commit(r)
	s.waitFor(t, o.size)
	stop()
	o.check(t, s.snapshot())
	if err := relay.Stats().Err; err != nil { // it was not found by looking for what the log did not show
		t.Error(err)
	}
}
