package pgtail_test

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
	"github.com/millrace/millrace/outbox/pgtail"
)

// database is one with an outbox and a log of the test's own.
type database struct {
	sqltest.Database
	table *outbox.Table
	log   *pgtail.Log
}

// patience is how long a test waits for what has to come, on a machine that has other things to do.
const patience = 90 * time.Second

// open makes the outbox. Slot and publication are dropped at the end; relays that the test starts later end before that.
func open(t testing.TB, d sqltest.Database) database {
	t.Helper()
	table, err := outbox.NewTable(outbox.Postgres, outbox.Config{Name: d.Name})
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Create(t.Context(), d.DB); err != nil {
		t.Fatal(err)
	}
	log, err := pgtail.New(table, d.Address, pgtail.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { drop(t, log) })
	return database{d, table, log}
}

// drop waits for the server to notice that a relay has gone, if it was killed.
func drop(t testing.TB, log *pgtail.Log) {
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = log.Drop(context.Background()); err == nil {
			return
		}
	}
	t.Error(err)
}

func (d database) write(t testing.TB, records ...framework.Record) {
	t.Helper()
	if err := d.InTx(t.Context(), func(tx *sql.Tx) error { return d.publish(tx, records...) }); err != nil {
		t.Fatal(err)
	}
}

func (d database) publish(tx *sql.Tx, records ...framework.Record) error {
	return d.table.Publisher(outbox.SQL(tx)).Publish(context.Background(), "events", records...)
}

func (d database) exec(t testing.TB, statement string, args ...any) {
	t.Helper()
	if _, err := d.Exec(statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func (d database) count(t testing.TB) int { t.Helper(); return d.Count(t, d.Name) }

// dropSlot waits for the server to notice that nobody reads from it any more.
func (d database) dropSlot(t testing.TB) {
	t.Helper()
	eventually(t, "the slot is dropped", func() bool {
		_, err := d.Exec("SELECT pg_drop_replication_slot($1)", d.slot())
		return err == nil
	})
}

// slot is the slot's name, which is the publication's too.
func (d database) slot() string { return d.table.Channel() + "_log" }

func (d database) status(t testing.TB) pgtail.Status {
	t.Helper()
	s, err := d.log.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// slotMoves waits until the slot is past what the log has now. Its lag is seldom 0 while others write to the same server.
func (d database) slotMoves(t testing.TB) {
	t.Helper()
	var end string
	if err := d.QueryRow("SELECT pg_current_wal_flush_lsn()::text").Scan(&end); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the slot is past "+end, func() (past bool) {
		err := d.QueryRow("SELECT confirmed_flush_lsn >= $1::pg_lsn FROM pg_replication_slots WHERE slot_name = $2", end, d.slot()).Scan(&past)
		return err == nil && past
	})
}

// reader is the connection that reads from the slot, when there is one.
func (d database) reader(t testing.TB) (reader string) {
	t.Helper()
	eventually(t, "the slot is read from", func() bool {
		return d.QueryRow(`SELECT r.pid || ' since ' || r.backend_start FROM pg_stat_replication r
 JOIN pg_replication_slots s ON s.active_pid = r.pid WHERE slot_name = $1 AND r.state = 'streaming'`, d.slot()).Scan(&reader) == nil
	})
	return reader
}

func event(key string, n int) framework.Record {
	return framework.Record{ID: fmt.Sprintf("%s-%d", key, n), Type: "placed", Key: key, Value: fmt.Appendf(nil, "%s %d", key, n)}
}

// quick are settings with which a test does not wait for long.
func (d database) quick() outbox.RelayConfig {
	return outbox.RelayConfig{
		Log: d.log, PollMin: time.Millisecond, PollMax: 20 * time.Millisecond, Settle: 50 * time.Millisecond, FullScan: 100 * time.Millisecond,
		Lease: 10 * time.Second, RetryFirst: 5 * time.Millisecond, RetryMost: 50 * time.Millisecond, ParkedRetry: 100 * time.Millisecond,
	}
}

// start runs a relay until stop is called or the test ends. Run must return nil.
func (d database) start(t testing.TB, publisher framework.Publisher, config outbox.RelayConfig) (relay *outbox.Relay, stop func()) {
	t.Helper()
	relay, err := outbox.NewRelay(d.table, d.DB, publisher, config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- relay.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return relay, stop
}

// tailing waits until a relay reads the log.
func tailing(t testing.TB, relay *outbox.Relay) {
	t.Helper()
	eventually(t, "the relay reads the log", func() bool { return relay.Stats().Tailing })
}

// eventually polls what a server or a relay says of itself; there is no signal for it.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not so within time: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// sink is a publisher that keeps what it takes, and fails as a test wants.
type sink struct {
	lock    sync.Mutex
	fail    func(ctx context.Context, topic string, records []framework.Record) error
	all     []framework.Record
	changed chan struct{}
}

func newSink() *sink { return &sink{changed: make(chan struct{})} }

func (s *sink) Publish(ctx context.Context, topic string, records []framework.Record) error {
	s.lock.Lock()
	fail := s.fail
	s.lock.Unlock()
	if fail != nil {
		if err := fail(ctx, topic, records); err != nil {
			return err
		}
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	s.all = append(s.all, records...)
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

func (s *sink) Close() error { return nil }

func (s *sink) setFail(fail func(context.Context, string, []framework.Record) error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.fail = fail
}

func (s *sink) snapshot() []framework.Record {
	s.lock.Lock()
	defer s.lock.Unlock()
	return slices.Clone(s.all)
}

// waitFor waits until so many different events have come.
func (s *sink) waitFor(t testing.TB, n int) {
	t.Helper()
	deadline := time.After(patience)
	for {
		s.lock.Lock()
		all, changed := s.all, s.changed
		s.lock.Unlock()
		first, _ := distinct(all)
		if len(first) >= n {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%d of %d events came", len(first), n)
		}
	}
}

func distinct(all []framework.Record) (first []framework.Record, duplicates int) {
	seen := map[string]bool{}
	for _, r := range all {
		if seen[r.ID] {
			duplicates++
			continue
		}
		seen[r.ID] = true
		first = append(first, r)
	}
	return first, duplicates
}

// oracle knows what was committed, per key in the order of the commits.
type oracle struct {
	lock      sync.Mutex
	committed map[string][]string
	size      int
}

func newOracle() *oracle { return &oracle{committed: map[string][]string{}} }

// commit takes note of events after their COMMIT has returned.
func (o *oracle) commit(records ...framework.Record) {
	o.lock.Lock()
	defer o.lock.Unlock()
	for _, r := range records {
		o.committed[r.Key] = append(o.committed[r.Key], r.ID)
		o.size++
	}
}

// check compares: nothing lost, first occurrences in order per key, nothing else. It returns how many came more than once.
func (o *oracle) check(t testing.TB, all []framework.Record) int {
	t.Helper()
	o.lock.Lock()
	defer o.lock.Unlock()
	first, duplicates := distinct(all)
	got := map[string][]string{}
	for _, r := range first {
		got[r.Key] = append(got[r.Key], r.ID)
	}
	for _, key := range slices.Sorted(maps.Keys(o.committed)) {
		if !slices.Equal(got[key], o.committed[key]) {
			t.Errorf("key %s: sent %s, committed %s", key, shorten(got[key]), shorten(o.committed[key]))
		}
	}
	if len(first) != o.size {
		t.Errorf("%d different events were sent, %d were committed", len(first), o.size)
	}
	return duplicates
}

func shorten(ids []string) string {
	if len(ids) > 20 {
		return fmt.Sprint(len(ids), " events, ", ids[:20], "…")
	}
	return fmt.Sprint(len(ids), " events, ", ids)
}
