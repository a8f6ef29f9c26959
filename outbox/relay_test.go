package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/outbox"
)

func event(key string, n int) framework.Record {
	return framework.Record{ID: fmt.Sprintf("%s/%d", key, n), Key: key, Value: fmt.Appendf(nil, "%d", n)}
}

// writers write transactions with events of their own keys, some of which they roll back, and tell the oracle.
func writers(t testing.TB, d database, table *outbox.Table, o *oracle, name string, count, transactions int) (wait func()) {
	publish := func(tx *sql.Tx, topic string, records ...framework.Record) error {
		return table.Publisher(outbox.SQL(tx)).Publish(context.Background(), topic, records...)
	}
	return writersWith(t, d, publish, o, name, count, transactions)
}

func writersWith(t testing.TB, d database, publish func(*sql.Tx, string, ...framework.Record) error, o *oracle, name string, count, transactions int) (wait func()) {
	var running sync.WaitGroup
	for w := range count {
		running.Go(func() {
			n := map[string]int{}
			random := rand.New(rand.NewPCG(1, uint64(w)))
			for range transactions {
				var records []framework.Record
				undone := random.IntN(5) == 0
				for range 1 + random.IntN(4) {
					key := fmt.Sprintf("%s%d-%d", name, w, random.IntN(3))
					n[key]++
					records = append(records, event(key, n[key]))
				}
				err := d.InTx(context.Background(), func(tx *sql.Tx) error {
					if err := publish(tx, fmt.Sprint("topic-", w%2), records...); err != nil {
						return err
					}
					if undone {
						return errors.New("undone")
					}
					return nil
				})
				switch {
				case undone:
					o.rollback(records...)
				case err != nil:
					t.Error(err)
					return
				default:
					o.commit(records...)
				}
			}
		})
	}
	return running.Wait
}

func TestRelaySendsAllInOrder(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, o, s := d.table(t, outbox.Config{}), newOracle(), newSink()
		relay, stop := start(t, d, table, s, quick())
		writers(t, d, table, o, "w", 4, 60)()
		s.waitForDistinct(t, o.size())
		eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
		stop()
		if duplicates := o.check(t, s); duplicates > 0 {
			t.Errorf("%d duplicates without a fault", duplicates)
		}
		if stats := relay.Stats(); stats.Sent != int64(o.size()) || stats.Deleted != stats.Sent || stats.Rows != 0 || stats.Bytes != 0 {
			t.Errorf("stats %+v, %d events", stats, o.size())
		}
	})
}

// What was written before is sent by a relay with a small window, in more than one pass.
func TestRelayDrainsBacklog(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, o, s := d.table(t, outbox.Config{}), newOracle(), newSink()
		for batch := range 10 {
			var records []framework.Record
			for i := range 500 {
				records = append(records, event(fmt.Sprint("key", i%50), batch*10+i/50))
			}
			d.write(t, table, "events", records...)
			o.commit(records...)
		}
		config := quick()
		config.WindowRows, config.BatchRows, config.BatchBytes = 300, 100, 20_000
		_, stop := start(t, d, table, s, config)
		s.waitForDistinct(t, 5000)
		eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
		stop()
		if duplicates := o.check(t, s); duplicates > 0 {
			t.Errorf("%d duplicates without a fault", duplicates)
		}
	})
}

// Fault 4: an event with a low id that is committed late, comes soon, and before the next event of its key, which is above.
// Other keys do not wait for it. SQLite has one writer, so there it cannot be.
func TestLateCommit(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		if d.Dialect == outbox.SQLite {
			return
		}
		lateCommit(t, d, 0)
	})
}

// The same when passes begin above it, since so many events are in memory.
func TestLateCommitBelow(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		if d.Dialect == outbox.SQLite {
			return
		}
		lateCommit(t, d, 400)
	})
}

// lateCommit has a number of events of another topic held by the publisher meanwhile.
func lateCommit(t *testing.T, d database, held int) {
	table, o, s := d.table(t, outbox.Config{}), newOracle(), newSink()
	release := make(chan struct{})
	s.setFail(func(ctx context.Context, topic string, _ []framework.Record) error {
		if topic == "slow" {
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
		return ctx.Err()
	})
	var slow []framework.Record
	for n := range held {
		slow = append(slow, event("slow", n))
	}
	if held > 0 {
		d.write(t, table, "slow", slow...)
		o.commit(slow...)
	}
	config := quick()
	config.FullScan = time.Hour // it is not needed
	_, _ = start(t, d, table, s, config)
	late, err := d.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer late.Rollback()
	if err := table.Publisher(outbox.SQL(late)).Publish(t.Context(), "events", event("late", 1)); err != nil {
		t.Fatal(err)
	}
	var below atomic.Int64
	defer failpoint.Arm("outbox.read.below", func() error { below.Add(1); return nil })()
	began := time.Now()
	for n := 1; time.Since(began) < 400*time.Millisecond; n++ { // longer than Settle
		r := event("quick", n)
		d.write(t, table, "events", r)
		o.commit(r)
		s.waitForDistinct(t, n)
	}
	// Fault 5: the transaction with the early id writes an event of the other key last.
	last := event("quick", 1_000_000)
	if err := table.Publisher(outbox.SQL(late)).Publish(t.Context(), "events", last); err != nil {
		t.Fatal(err)
	}
	if err := late.Commit(); err != nil {
		t.Fatal(err)
	}
	d.write(t, table, "events", event("late", 2))
	o.commit(event("late", 1), last, event("late", 2))
	s.waitForDistinct(t, o.size()-held)
	if held > 0 && below.Load() == 0 {
		t.Error("each pass began at the first row, so none has looked below")
	}
	close(release)
	s.waitForDistinct(t, o.size())
	o.check(t, s)
}

// Many rows are deleted at once while a transaction has written a row below them, and one above: it is not waited for.
func TestOpenTransactionsDoNotHoldUpDeletes(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		if d.Dialect == outbox.SQLite {
			return
		}
		table, s := d.table(t, outbox.Config{}), newSink()
		open := func() {
			tx, err := d.Begin()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = tx.Rollback() })
			if err := table.Publisher(outbox.SQL(tx)).Publish(t.Context(), "events", event("open", 1)); err != nil {
				t.Fatal(err)
			}
		}
		open()
		records := make([]framework.Record, 600)
		for i := range records {
			records[i] = event(fmt.Sprint("key", i%7), i)
		}
		d.write(t, table, "events", records...)
		open()
		_, _ = start(t, d, table, s, quick())
		eventually(t, "the table is empty but for open transactions", func() bool { return d.count(t) == 0 })
		if first, _ := s.distinct(); len(first) != len(records) {
			t.Errorf("%d of %d events were sent", len(first), len(records))
		}
	})
}

// Fault 9: the broker is away while events are written: memory is bounded, and all are sent in order afterwards.
func TestBrokerAway(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, o, s := d.table(t, outbox.Config{}), newOracle(), newSink()
		away := func(context.Context, string, []framework.Record) error { return errAway }
		s.setFail(away)
		config := quick()
		config.WindowRows, config.BatchRows = 200, 50
		relay, stop := start(t, d, table, s, config)
		most := 0
		for n := range 20 {
			var records []framework.Record
			for i := range 100 {
				records = append(records, event(fmt.Sprint("key", i), n))
			}
			d.write(t, table, fmt.Sprint("topic-", n%2), records...)
			o.commit(records...)
			most = max(most, relay.Stats().Rows)
		}
		eventually(t, "both topics wait", func() bool { return relay.Stats().Closed == 2 })
		eventually(t, "some more attempts", func() bool {
			most = max(most, relay.Stats().Rows)
			return relay.Stats().Retries > 20
		})
		if most > config.WindowRows {
			t.Errorf("%d rows in memory, WindowRows is %d", most, config.WindowRows)
		}
		if stats := relay.Stats(); stats.Parked > 0 || stats.Err == nil {
			t.Errorf("stats of an outage: %+v", stats)
		}
		s.setFail(nil)
		s.waitForDistinct(t, o.size())
		eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
		stop()
		first, _ := s.distinct()
		if len(first) != o.size() {
			t.Errorf("%d events were sent, of %d", len(first), o.size())
		}
		checkPerTopic(t, s)
	})
}

// checkPerTopic checks the order within each topic and key, by the numbers in the events' values.
func checkPerTopic(t *testing.T, s *sink) {
	t.Helper()
	last := map[string]int{}
	seen := map[string]bool{}
	for i, r := range s.all {
		if seen[r.ID] {
			continue
		}
		seen[r.ID] = true
		var n int
		if _, err := fmt.Sscan(string(r.Value), &n); err != nil {
			t.Fatal(err)
		}
		place := s.topics[i] + "/" + r.Key
		if before, ok := last[place]; ok && n <= before {
			t.Fatalf("%s: %d came after %d", place, n, before)
		}
		last[place] = n
	}
}

// A topic that takes nothing does not hold up another.
func TestOtherTopicsGoOn(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, s := d.table(t, outbox.Config{}), newSink()
		s.setFail(func(_ context.Context, topic string, _ []framework.Record) error {
			if topic == "away" {
				return errAway
			}
			return nil
		})
		for n := range 10 {
			var records []framework.Record
			for i := range 100 {
				records = append(records, event(fmt.Sprint("key", i), n))
			}
			d.write(t, table, "away", records...)
		}
		config := quick()
		config.WindowRows, config.BatchRows = 200, 50
		_, _ = start(t, d, table, s, config)
		d.write(t, table, "well", event("a", 1), event("a", 2))
		s.waitForDistinct(t, 2)
		s.setFail(nil)
		s.waitForDistinct(t, 1002)
		checkPerTopic(t, s)
	})
}

// Fault 9, second half: some keys fail for a while, as when one partition has no leader. The others go on, and the order
// of those that failed is kept.
func TestSomeKeysFailForAWhile(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, o, s := d.table(t, outbox.Config{}), newOracle(), newSink()
		failing := func(r framework.Record) bool { return r.Key[len(r.Key)-1]%2 == 1 }
		s.setFail(func(_ context.Context, _ string, records []framework.Record) error {
			if slices.ContainsFunc(records, failing) {
				return errAway
			}
			return nil
		})
		config := quick()
		config.ParkAfter, config.ParkedRetry = 4, 2*time.Second
		// Passes begin above a key that waits, unless they mind it.
		config.Settle, config.FullScan, config.RetryFirst = time.Millisecond, time.Second, 20*time.Millisecond
		relay, stop := start(t, d, table, s, config)
		even := 0
		for n := range 30 {
			var records []framework.Record
			for i := range 20 {
				r := event(fmt.Sprint("key", i), n)
				records = append(records, r)
				if !failing(r) {
					even++
				}
			}
			d.write(t, table, "events", records...)
			o.commit(records...)
		}
		s.waitForDistinct(t, even)
		eventually(t, "the failing keys are parked, while others are taken", func() bool {
			r := event("other0", o.size())
			d.write(t, table, "events", r)
			o.commit(r)
			return relay.Stats().Parked == 10
		})
		var parked []outbox.Parked
		eventually(t, "that is in the table", func() (ok bool) {
			var err error
			if parked, err = table.Parked(t.Context(), d.DB, 100); err != nil {
				t.Fatal(err)
			}
			return len(parked) == 10
		})
		if p := parked[0]; p.Attempts < 4 || p.RetryIn < 0 || p.Error != errAway.Error() {
			t.Errorf("parked: %+v", p)
		}
		s.setFail(nil)
		s.waitForDistinct(t, o.size()) // they are tried again by themselves
		eventually(t, "nothing is left", func() bool { return d.count(t) == 0 })
		stop()
		o.check(t, s)
		if parked, err := table.Parked(t.Context(), d.DB, 100); err != nil || len(parked) != 0 {
			t.Errorf("still parked: %+v, %v", parked, err)
		}
	})
}

// An event that waits and is deleted by somebody leaves nothing behind in the relay.
func TestWaitingEventIsDeleted(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, s := d.table(t, outbox.Config{}), newSink()
		s.setFail(func(_ context.Context, _ string, records []framework.Record) error {
			if slices.ContainsFunc(records, func(r framework.Record) bool { return r.Key == "away" }) {
				return errAway
			}
			return nil
		})
		config := quick()
		config.ParkAfter = 1_000_000
		relay, _ := start(t, d, table, s, config)
		n := 0
		waiting := func(want int) func() bool {
			return func() bool {
				n++
				d.write(t, table, "events", event("well", n))
				return relay.Stats().Waiting == want
			}
		}
		d.write(t, table, "events", event("away", 1))
		eventually(t, "the key waits", waiting(1))
		if _, err := d.Exec("DELETE FROM " + d.Name + " WHERE event_id = 'away/1'"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the key is forgotten", waiting(0))
	})
}

// A key that waits with more events than fit into memory holds up no other, and they come in order later. So does a
// transaction that commits more events late than that.
func TestMoreWaitThanFit(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, o, s := d.table(t, outbox.Config{}), newOracle(), newSink()
		s.setFail(func(_ context.Context, _ string, records []framework.Record) error {
			if slices.ContainsFunc(records, func(r framework.Record) bool { return r.Key == "away" }) {
				return errAway
			}
			return nil
		})
		many := func(key string) (records []framework.Record) {
			for n := range 1500 {
				records = append(records, event(key, n))
			}
			return records
		}
		late := many("late")
		var tx *sql.Tx
		if d.Dialect != outbox.SQLite { // it has one writer
			var err error
			if tx, err = d.Begin(); err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			if err := table.Publisher(outbox.SQL(tx)).Publish(t.Context(), "events", late...); err != nil {
				t.Fatal(err)
			}
		}
		away := many("away")
		d.write(t, table, "events", append([]framework.Record{event("well", -1)}, away...)...)
		o.commit(append([]framework.Record{event("well", -1)}, away...)...)
		config := quick()
		config.WindowRows, config.BatchRows, config.ParkAfter, config.FullScan = 100, 40, 1_000_000, time.Hour
		_, stop := start(t, d, table, s, config)
		for n := range 100 {
			d.write(t, table, "events", event("well", n))
			o.commit(event("well", n))
		}
		s.waitForDistinct(t, 101)
		if tx != nil {
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			d.write(t, table, "events", event("late", 1_000_000))
			o.commit(append(late, event("late", 1_000_000))...)
			s.waitForDistinct(t, o.size()-len(away))
		}
		s.setFail(nil)
		s.waitForDistinct(t, o.size())
		stop()
		o.check(t, s)
	})
}

// A publisher that fails by chance, for some records, after it has taken a part of the others: whatever that does to
// groups, keys and passes, first occurrences are in order and nothing is lost.
func TestFlakyPublisher(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, o, s := d.table(t, outbox.Config{}), newOracle(), newSink()
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		var lock sync.Mutex
		s.setFail(func(_ context.Context, _ string, records []framework.Record) error {
			lock.Lock()
			defer lock.Unlock()
			for i := range records {
				if random.IntN(12) == 0 {
					return partial{random.IntN(i + 1)}
				}
			}
			return nil
		})
		config := quick()
		config.BatchRows, config.WindowRows, config.ParkAfter = 15, 200, 3
		config.Settle, config.FullScan, config.RetryFirst, config.RetryMost = 5*time.Millisecond, 100*time.Millisecond, time.Millisecond, 20*time.Millisecond
		config.ParkedRetry = 20 * time.Millisecond
		_, stop := start(t, d, table, s, config)
		writers(t, d, table, o, "w", 4, 60)()
		s.waitForDistinct(t, o.size())
		eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
		stop()
		t.Logf("%d events, %d duplicates", o.size(), o.check(t, s))
	})
}

// Relays come and go while events are written, and hand slots over to each other.
func TestRelaysComeAndGo(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, o, s := d.table(t, outbox.Config{}), newOracle(), newSink()
		config := quick()
		config.Lease, config.BatchRows = 300*time.Millisecond, 10
		var stops []func()
		for round := range 8 {
			wait := writers(t, d, table, o, fmt.Sprintf("round%d-", round), 2, 25)
			relay, stop := start(t, d, table, s, config)
			stops = append(stops, stop)
			want := outbox.Slots / (len(stops) + 1) // shares are rounded up: the last one has less
			eventually(t, "the new relay has its share", func() bool { return relay.Stats().Slots >= want })
			if len(stops) == 3 {
				stops[0]()
				stops = stops[1:]
			}
			wait()
		}
		eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
		for _, stop := range stops {
			stop()
		}
		s.overlap = false                                           // calls of two relays may
		t.Logf("%d events, %d duplicates", o.size(), o.check(t, s)) // a relay may have lost its lease on a slow machine
	})
}

// While the publisher takes its time, no more is read than fits into the window, by rows and by bytes.
func TestWindow(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		for _, test := range []struct {
			name  string
			value int
			limit func(*outbox.RelayConfig)
			full  func(outbox.Stats) bool
			over  func(outbox.Stats) bool
		}{
			{"rows", 1, func(c *outbox.RelayConfig) { c.WindowRows = 100 },
				func(s outbox.Stats) bool { return s.Rows >= 100 }, func(s outbox.Stats) bool { return s.Rows > 100 }},
			{"bytes", 10_000, func(c *outbox.RelayConfig) { c.WindowBytes = 100_000 },
				func(s outbox.Stats) bool { return s.Bytes >= 100_000 }, func(s outbox.Stats) bool { return s.Bytes > 111_000 }},
		} {
			table, s := d.table(t, outbox.Config{}), newSink()
			release := make(chan struct{})
			s.setFail(func(context.Context, string, []framework.Record) error { <-release; return nil })
			var records []framework.Record
			for i := range 300 {
				records = append(records, framework.Record{ID: fmt.Sprint(test.name, i), Key: "k", Value: make([]byte, test.value)})
			}
			d.write(t, table, "events", records...)
			config := quick()
			config.BatchRows = 5
			test.limit(&config)
			relay, stop := start(t, d, table, s, config)
			eventually(t, "the window is full", func() bool { return test.full(relay.Stats()) })
			until := time.Now().Add(300 * time.Millisecond) // and some polls and a full scan later
			eventually(t, "no more is read", func() bool {
				if stats := relay.Stats(); test.over(stats) {
					t.Fatalf("%s: %+v", test.name, stats)
				}
				return time.Now().After(until)
			})
			close(release)
			s.waitForDistinct(t, 300)
			eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
			stop()
		}
	})
}

var errPoison = framework.Permanent(errors.New("larger than the broker takes"))

// Fault 10: a poison row stops its key only, until somebody decides about it.
func TestPoisonRow(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, o, s := d.table(t, outbox.Config{}), newOracle(), newSink()
		poison := func(_ context.Context, _ string, records []framework.Record) error {
			if slices.ContainsFunc(records, func(r framework.Record) bool { return r.ID == "bad/2" || r.ID == "worse/1" || r.ID == "lone" }) {
				return errPoison
			}
			return nil
		}
		s.setFail(poison)
		_, stop := start(t, d, table, s, quick())
		var records []framework.Record
		for n := range 5 {
			records = append(records, event("good", n), event("bad", n), event("worse", n), event("fine", n))
		}
		records = append(records, framework.Record{ID: "lone"}, framework.Record{ID: "other"})
		d.write(t, table, "events", records...)
		s.waitForDistinct(t, 5+2+1+5+1)
		find := func(id string) (found outbox.Parked) {
			eventually(t, id+" is parked", func() bool {
				parked, err := table.Parked(t.Context(), d.DB, 10)
				if err != nil {
					t.Fatal(err)
				}
				i := slices.IndexFunc(parked, func(p outbox.Parked) bool { return p.EventID == id })
				if i >= 0 {
					found = parked[i]
				}
				return i >= 0
			})
			return found
		}
		bad, worse, lone := find("bad/2"), find("worse/1"), find("lone")
		if bad.Key != "bad" || bad.Attempts != 1 || bad.RetryIn >= 0 || bad.Error != errPoison.Error() || lone.Key != "" {
			t.Errorf("parked: %+v, %+v", bad, lone)
		}
		// A restart keeps it, and more events of the key wait behind it.
		stop()
		_, stop = start(t, d, table, s, quick())
		d.write(t, table, "events", event("bad", 5), event("good", 5))
		s.waitForDistinct(t, 5+2+1+5+1+1)

		if err := table.DeadLetter(t.Context(), d.DB, bad.Row, bad.EventID); err != nil {
			t.Fatal(err)
		}
		s.waitForDistinct(t, 15+3) // bad 3, 4, 5
		s.setFail(nil)
		if err := table.Resume(t.Context(), d.DB, worse.Row, worse.EventID); err != nil {
			t.Fatal(err)
		}
		s.waitForDistinct(t, 18+4)
		if n, err := table.ResumeTopic(t.Context(), d.DB, "events"); err != nil || n != 1 {
			t.Fatalf("resumed %d, %v", n, err)
		}
		s.waitForDistinct(t, 23)
		dead, err := table.DeadLetters(t.Context(), d.DB, 10)
		if err != nil || len(dead) != 1 || dead[0].EventID != "bad/2" || string(dead[0].Payload) != "2" || dead[0].Attempts != 1 {
			t.Fatalf("dead letters: %+v, %v", dead, err)
		}
		for _, err := range []error{
			table.Resume(t.Context(), d.DB, 12345, "lone"), table.DeadLetter(t.Context(), d.DB, 12345, "lone"), table.Resend(t.Context(), d.DB, 12345, "lone"),
			table.Discard(t.Context(), d.DB, 12345, "lone"),
		} {
			if !errors.Is(err, outbox.ErrNotParked) {
				t.Errorf("of a row that is not there: %v", err)
			}
		}
		if err := table.Resend(t.Context(), d.DB, dead[0].Row, dead[0].EventID); err != nil {
			t.Fatal(err)
		}
		s.waitForDistinct(t, 24)
		stop()
		for _, r := range records[:20] {
			if r.ID != "bad/2" {
				o.commit(r)
			}
		}
		o.commit(event("bad", 5), event("good", 5), event("bad", 2))
		o.commit(records[21], records[20])
		o.check(t, s)
	})
}

// An event that is not taken, with an error that says nothing, and fills a group by itself, does not hold up what is
// behind it in its topic.
func TestLargePoisonRow(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, s := d.table(t, outbox.Config{}), newSink()
		s.setFail(func(_ context.Context, _ string, records []framework.Record) error {
			if slices.ContainsFunc(records, func(r framework.Record) bool { return r.Key == "bad" }) {
				return errAway
			}
			return nil
		})
		large := make([]byte, 600)
		d.write(t, table, "events", framework.Record{ID: "1", Key: "bad", Value: large},
			framework.Record{ID: "2", Key: "good", Value: large}, framework.Record{ID: "3", Key: "other"})
		config := quick()
		config.BatchBytes = 1000
		_, stop := start(t, d, table, s, config)
		s.waitForDistinct(t, 2)
		s.setFail(nil)
		s.waitForDistinct(t, 3)
		stop()
	})
}

// Such an event is parked like any other, once others have been taken often enough; and as long as nothing is taken, none.
func TestLargePoisonRowIsParked(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, s := d.table(t, outbox.Config{}), newSink()
		s.setFail(func(context.Context, string, []framework.Record) error { return errAway })
		config := quick()
		config.BatchBytes, config.ParkAfter, config.ParkedRetry, config.RetryMost = 1000, 3, time.Hour, 10*time.Millisecond
		relay, stop := start(t, d, table, s, config)
		large := make([]byte, 600)
		n := 0
		put := func() {
			n++
			d.write(t, table, "events", framework.Record{ID: fmt.Sprint("good/", n), Key: "good", Value: large})
		}
		d.write(t, table, "events", framework.Record{ID: "bad/1", Key: "bad", Value: large}, framework.Record{ID: "bad/2", Key: "bad", Value: large})
		put()
		eventually(t, "the topic has been tried often", func() bool { return relay.Stats().Retries > 40 })
		if stats := relay.Stats(); stats.Parked > 0 {
			t.Errorf("parked while nothing is taken: %+v", stats)
		}
		s.setFail(func(_ context.Context, _ string, records []framework.Record) error {
			if slices.ContainsFunc(records, func(r framework.Record) bool { return r.Key == "bad" }) {
				return errAway
			}
			return nil
		})
		var parked []outbox.Parked
		eventually(t, "the key is parked", func() bool {
			put()
			var err error
			if parked, err = table.Parked(t.Context(), d.DB, 10); err != nil {
				t.Fatal(err)
			}
			return len(parked) > 0
		})
		if p := parked[0]; len(parked) != 1 || p.EventID != "bad/1" || p.Attempts != 3 || p.RetryIn <= 0 || p.Error != errAway.Error() {
			t.Errorf("parked: %+v", parked)
		}
		s.setFail(nil)
		if err := table.Resume(t.Context(), d.DB, parked[0].Row, parked[0].EventID); err != nil {
			t.Fatal(err)
		}
		s.waitForDistinct(t, n+2)
		stop()
		o := newOracle()
		for i := range n {
			o.commit(framework.Record{ID: fmt.Sprint("good/", i+1), Key: "good"})
		}
		o.commit(event("bad", 1), event("bad", 2))
		o.check(t, s)
	})
}

// Topics are compared byte by byte; MySQL's texts leave out spaces at the end.
func TestTopicsThatLookAlike(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, s := d.table(t, outbox.Config{}), newSink()
		s.setFail(func(_ context.Context, topic string, _ []framework.Record) error {
			if topic == "events" {
				return errPoison
			}
			return nil
		})
		d.write(t, table, "events", event("k", 1))
		_, stop := start(t, d, table, s, quick())
		eventually(t, "the key is parked", func() bool {
			parked, err := table.Parked(t.Context(), d.DB, 10)
			if err != nil {
				t.Fatal(err)
			}
			return len(parked) == 1 && parked[0].Topic == "events"
		})
		d.write(t, table, "events ", event("k", 2))
		s.waitForDistinct(t, 1)
		if n, err := table.ResumeTopic(t.Context(), d.DB, "events "); err != nil || n != 0 {
			t.Errorf("resumed %d, %v", n, err)
		}
		stop()
	})
}

// A topic that is away with more than the window holds does not hold up another one.
func TestOneTopicAway(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, s := d.table(t, outbox.Config{}), newSink()
		s.setFail(func(_ context.Context, topic string, _ []framework.Record) error {
			if topic == "away" {
				return framework.ErrNoTopic
			}
			return nil
		})
		var records []framework.Record
		for i := range 300 {
			records = append(records, framework.Record{ID: fmt.Sprint("away", i), Key: fmt.Sprint(i % 50), Value: make([]byte, 1000)})
		}
		d.write(t, table, "away", records...)
		d.write(t, table, "good", event("good", 1))
		config := quick()
		config.WindowBytes, config.BatchBytes = 100_000, 200_000
		_, stop := start(t, d, table, s, config)
		s.waitForDistinct(t, 1)
		s.setFail(nil)
		s.waitForDistinct(t, 301)
		stop()
	})
}
