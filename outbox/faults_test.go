package outbox_test

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"flag"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
)

// Fault 2: SIGTERM in the middle of a backlog. The relay ends by itself and without an error; what it has sent is deleted,
// so that the next one sends nothing twice.
func TestTerminatedWhileSending(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, o := d.table(t, outbox.Config{}), newOracle()
		var records []framework.Record
		for n := range 50 {
			for k := range 20 {
				records = append(records, event(fmt.Sprint("key", k), n))
			}
		}
		d.write(t, table, "events", records...)
		o.commit(records...)
		file := fileSink{path: filepath.Join(t.TempDir(), "sink")}
		c := child{dialect: d.Dialect, driver: d.Driver, address: d.Address, table: d.Name, file: file.path, name: "first",
			pause: 100 * time.Millisecond, lease: 10 * time.Second}
		cmd := c.command()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "something is sent", func() bool { all, _ := file.lines(t); return len(all) > 0 })
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
		sent, _ := file.lines(t)
		if left := d.count(t); left == 0 || left+len(sent) != len(records) {
			t.Errorf("%d events were sent and %d are left, of %d", len(sent), left, len(records))
		}
		_, stop := start(t, d, table, fileSink{path: file.path, name: "second"}, quick())
		eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
		stop()
		s := newSink()
		s.all, _ = file.lines(t)
		if duplicates := o.check(t, s); duplicates > 0 {
			t.Errorf("%d duplicates", duplicates)
		}
	})
}

// counter is a publisher that keeps nothing: it checks that the numbers of a key grow, and counts.
type counter struct {
	count atomic.Int64
	bad   atomic.Pointer[string]
	last  sync.Map // by key
}

func (c *counter) Publish(_ context.Context, _ string, records []framework.Record) error {
	for _, r := range records {
		if last, _ := c.last.Swap(r.Key, r.Metadata[outbox.MetadataSequence]); last != nil && last.(string) >= r.Metadata[outbox.MetadataSequence] || r.Type != "kept" {
			text := fmt.Sprintf("%+v after %v", r, last)
			c.bad.CompareAndSwap(nil, &text)
		}
	}
	c.count.Add(int64(len(records)))
	return nil
}

func (c *counter) Close() error { return nil }

// largeRows is how many rows TestLargeTransactions writes in one transaction: -rows 1000000 takes a minute.
var largeRows = flag.Int("rows", 250_000, "rows of the large transaction")

// insertMany returns an INSERT of n rows in one statement, whose argument is their type.
func (d database) insertMany(n int) string {
	key, id, payload, kind := "CAST(n % 16 AS CHAR)", "CONCAT(kind, n)", "REPEAT('x', 100)", "?"
	digits, number := []string{}, "0"
	for place := 1; place < n; place *= 10 {
		alias := fmt.Sprint("d", place)
		digits = append(digits, "(SELECT 0 AS d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9) "+alias)
		number += fmt.Sprintf(" + %d * %s.d", place, alias)
	}
	numbers := "(SELECT " + number + " AS n FROM " + strings.Join(digits, ", ") + ")"
	switch d.Dialect {
	case outbox.Postgres:
		key, id, payload, kind = "CAST(CAST(n % 16 AS text) AS bytea)", "kind || n", "CAST(REPEAT('x', 100) AS bytea)", "$1::text"
		numbers = fmt.Sprintf("(SELECT generate_series(0, %d) AS n)", n-1)
	case outbox.SQLite:
		key, id, payload = "CAST(n % 16 AS BLOB)", "kind || n", "ZEROBLOB(100)"
	}
	return fmt.Sprintf("INSERT INTO %s (slot, topic, event_key, event_id, event_type, payload) SELECT n %% 16, 'events', %s, %s, kind, %s "+
		"FROM %s numbers, (SELECT %s AS kind) kinds WHERE n < %d", d.Name, key, id, payload, numbers, kind, n)
}

// Fault 12: a transaction of many rows, some of which were undone by a savepoint, and another one that is rolled back.
// Nothing uncommitted is sent, and the relay's memory does not depend on what is in the table.
func TestLargeTransactions(t *testing.T) { onEach(t, largeTransactions) }

func largeTransactions(t *testing.T, d database) {
	table, sink := d.table(t, outbox.Config{}), new(counter)
	relay, stop := start(t, d, table, sink, outbox.RelayConfig{})
	total := *largeRows
	if d.Dialect != outbox.Postgres {
		total /= 5 // for the test's time
	}
	insert := func(tx *sql.Tx, kind string, n int) {
		t.Helper()
		if _, err := tx.Exec(d.insertMany(n), kind); err != nil {
			t.Fatal(err)
		}
	}
	rollBack := func() {
		t.Helper()
		undone, err := d.Begin()
		if err != nil {
			t.Fatal(err)
		}
		insert(undone, "undone", total/10)
		if err := undone.Rollback(); err != nil {
			t.Fatal(err)
		}
	}
	atOnce := d.Dialect == outbox.Postgres // SQLite has one writer, and MySQL's wait for one that has undone a part
	if !atOnce {
		rollBack()
	}
	tx, err := d.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	insert(tx, "kept", total/2)
	for _, statement := range []string{"SAVEPOINT s", "", "ROLLBACK TO SAVEPOINT s"} {
		if statement == "" {
			insert(tx, "undone", total/10)
		} else if _, err := tx.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	insert(tx, "kept", total/2)
	if atOnce {
		rollBack()
	}
	if n := sink.count.Load(); n > 0 {
		t.Errorf("%d uncommitted events were sent", n)
	}
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	most := uint64(0)
	config := outbox.RelayConfig{}.WithDefaults()
	for next := int64(1); next <= int64(total); next = sink.count.Load() + 1 {
		eventually(t, fmt.Sprintf("event %d is sent", next), func() bool {
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapAlloc)
			if s := relay.Stats(); s.Rows > config.WindowRows || s.Bytes > config.WindowBytes+1<<20 {
				t.Fatalf("%+v", s)
			}
			return sink.count.Load() >= next
		})
	}
	eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
	stop()
	if n := sink.count.Load(); n != int64(total) || sink.bad.Load() != nil {
		t.Errorf("%d events were sent; the first that is wrong: %v", n, sink.bad.Load())
	}
	t.Logf("%d MiB of heap before, at most %d MiB", before.HeapAlloc>>20, most>>20)
	if most > before.HeapAlloc+100<<20 { // of which what is in memory is perhaps 10; all rows would be 150
		t.Errorf("%d MiB in memory", most>>20)
	}
}

// Fault 7, on MariaDB and MySQL: a transaction that is prepared holds nothing up, and its events come when it is committed.
func TestPreparedTransaction(t *testing.T) {
	sqltest.MySQLs(t, func(t *testing.T, d sqltest.Database) { preparedTransaction(t, database{d}) })
}

func preparedTransaction(t *testing.T, d database) {
	table, o, s := d.table(t, outbox.Config{}), newOracle(), newSink()
	_, _ = start(t, d, table, s, quick())
	conn, err := d.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	run := func(statement string) {
		t.Helper()
		if _, err := conn.ExecContext(context.Background(), statement+" '"+d.Name+"'"); err != nil {
			t.Fatal(err)
		}
	}
	run("XA START")
	if err := table.Publisher(outbox.SQL(conn)).Publish(t.Context(), "events", event("prepared", 1)); err != nil {
		t.Fatal(err)
	}
	run("XA END")
	run("XA PREPARE")
	for n := 1; n <= 20; n++ {
		d.write(t, table, "events", event("k", n))
		o.commit(event("k", n))
		s.waitForDistinct(t, n)
	}
	run("XA COMMIT")
	d.write(t, table, "events", event("prepared", 2))
	o.commit(event("prepared", 1), event("prepared", 2))
	s.waitForDistinct(t, o.size())
	o.check(t, s)
}

// Fault 14: PostgreSQL's queue of notifications is full. Filling it takes 8 GB, so a connection answers NOTIFY as the
// server does then. Business commits succeed, since they notify nothing, and the relay polls.
func TestNotificationQueueIsFull(t *testing.T) {
	d := database{sqltest.Postgres(t)}
	table, s := d.table(t, outbox.Config{}), newSink()
	var refused atomic.Int64
	full := sql.OpenDB(queueIsFull{stdlib.GetDefaultDriver(), d.Address, &refused})
	defer full.Close()
	logs := new(safeBuffer)
	notifier, err := outbox.NewNotifier(table, full, slog.New(slog.NewTextHandler(logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- notifier.Run(ctx) }()
	business := database{d.Database}
	business.DB = full
	_, _ = start(t, d, table, s, quick())
	for n := 1; n <= 20; n++ {
		business.write(t, table, "events", event("k", n)) // ends the test unless the commit succeeds
		notifier.Wake()
		s.waitForDistinct(t, n)
	}
	eventually(t, "notifications were refused, and that is told", func() bool {
		return refused.Load() > 1 && strings.Contains(logs.String(), "too many notifications")
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// queueIsFull opens connections on which NOTIFY fails.
type queueIsFull struct {
	inner   driver.Driver
	address string
	refused *atomic.Int64
}

func (q queueIsFull) Driver() driver.Driver { return q.inner }

func (q queueIsFull) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := q.inner.Open(q.address)
	if err != nil {
		return nil, err
	}
	return fullConn{conn.(*stdlib.Conn), q.refused}, nil
}

type fullConn struct {
	*stdlib.Conn
	refused *atomic.Int64
}

func (c fullConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if strings.HasPrefix(query, "NOTIFY") {
		c.refused.Add(1)
		return nil, &pgconn.PgError{Severity: "ERROR", Code: "54000", Message: "too many notifications in the NOTIFY queue"}
	}
	return c.Conn.ExecContext(ctx, query, args)
}

// safeBuffer is written by one goroutine and read by another.
type safeBuffer struct {
	lock   sync.Mutex
	buffer bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.lock.Lock()
	defer b.lock.Unlock()
	return b.buffer.Write(p)
}

func (b *safeBuffer) String() string {
	b.lock.Lock()
	defer b.lock.Unlock()
	return b.buffer.String()
}

// A database that has died may give the number of an event that is being sent to another. That one is sent, and before
// the next of its key.
func TestNumberIsGivenTwiceWhileSending(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		if d.Dialect == outbox.SQLite {
			t.Skip("its numbers are not given twice")
		}
		table, s := d.table(t, outbox.Config{}), newSink()
		sending, release := make(chan struct{}), make(chan struct{})
		let := sync.OnceFunc(func() { close(release) })
		s.fail = func(_ context.Context, topic string, _ []framework.Record) error {
			if topic == "held" {
				close(sending)
				<-release
			}
			return nil
		}
		_, _ = start(t, d, table, s, quick())
		t.Cleanup(let)
		d.write(t, table, "held", event("x", 1))
		<-sending
		key := "'k'"
		if d.Dialect == outbox.Postgres {
			key += "::bytea"
		}
		if err := d.InTx(t.Context(), func(tx *sql.Tx) error {
			if _, err := tx.Exec("UPDATE " + d.Name + " SET topic = 'events', event_key = " + key + ", event_id = 'k/1'"); err != nil {
				return err
			}
			return table.Publisher(outbox.SQL(tx)).Publish(t.Context(), "events", event("k", 2))
		}); err != nil {
			t.Fatal(err)
		}
		var reads atomic.Int64
		t.Cleanup(failpoint.Arm("outbox.read", func() error { reads.Add(1); return nil }))
		eventually(t, "the table is read twice", func() bool { return reads.Load() > 2 })
		let()
		s.waitForDistinct(t, 3)
		eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
		var got []string
		for _, r := range s.all {
			got = append(got, r.ID)
		}
		if want := []string{"x/1", "k/1", "k/2"}; !slices.Equal(got, want) {
			t.Errorf("sent %v, not %v", got, want)
		}
	})
}
