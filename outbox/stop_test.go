package outbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/sqldb"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
	"github.com/millrace/millrace/outbox/pglisten"
)

// Fault 3: the database is stopped at once while events are written and sent, and started again. A transaction whose
// COMMIT got no answer may have been committed: its events may come, and must then be in order.
func TestDatabaseStopsAndComesBack(t *testing.T) {
	stop := func(t *testing.T, d database, server stoppable) {
		t.Run("load", func(t *testing.T) { stopUnderLoad(t, d, server) })
		t.Run("forgotten", func(t *testing.T) { forgetWhileSending(t, d, server) })
	}
	t.Run("postgres", func(t *testing.T) {
		server := services.OwnPostgres(t)
		stop(t, database{sqltest.Open(t, sqldb.Postgres, "pgx", server.Address)}, server)
	})
	t.Run("mariadb", func(t *testing.T) {
		server := services.OwnMariaDB(t)
		stop(t, database{sqltest.Open(t, sqldb.MySQL, "mysql", server.Address)}, server)
	})
}

// stoppable is a server of the test's own.
type stoppable interface {
	Stop(t testing.TB)
	Start(t testing.TB)
}

func stopUnderLoad(t *testing.T, d database, server stoppable) {
	table, s := d.table(t, outbox.Config{}), newSink()
	config := quick()
	if d.Dialect == outbox.Postgres {
		config.Listener = pglisten.New(d.Address, table.Channel())
	}
	relay, stop := start(t, d, table, s, config)

	var writing sync.WaitGroup
	committed := make([][]string, 3)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for w := range committed {
		writing.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				r := event(fmt.Sprint("w", w), n)
				err := d.InTx(context.Background(), func(tx *sql.Tx) error {
					return table.Publisher(outbox.SQL(tx)).Publish(context.Background(), "events", r)
				})
				if err == nil {
					committed[w] = append(committed[w], r.ID)
				} else if pause := time.NewTimer(5 * time.Millisecond); true {
					<-pause.C // as a writer does whose database is away
				}
			}
		})
	}
	for round := range 3 {
		s.waitForDistinct(t, (round+1)*100+len(s.snapshot()))
		server.Stop(t)
		server.Start(t)
	}
	s.waitForDistinct(t, 100+len(s.snapshot()))
	cancel()
	writing.Wait()
	eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
	stop()
	if stats := relay.Stats(); stats.Err == nil {
		t.Error("the relay noticed nothing")
	}
	first, duplicates := s.distinct()
	came := map[string]bool{}
	for _, r := range first {
		came[r.ID] = true
	}
	total := 0
	for _, ids := range committed {
		total += len(ids)
		for _, id := range ids {
			if !came[id] {
				t.Errorf("%s was committed and not sent", id)
			}
		}
	}
	checkPerTopic(t, s)
	t.Logf("%d committed, %d sent, %d duplicates", total, len(first), duplicates)
}

func (s *sink) snapshot() []framework.Record {
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.all
}

// forgetWhileSending stops a server that has shown a commit which is not on disk, while its events are being sent. Their
// numbers are given to others then, which are neither deleted for those that were taken, nor parked for the others.
func forgetWhileSending(t *testing.T, d database, server stoppable) {
	name := d.Name
	for attempt := range 10 { // the server may have come to write it all the same
		d.Name = fmt.Sprintf("%s_%d", name, attempt)
		if taken, refused := d.forget(t, server); taken > 0 && refused > 0 {
			t.Logf("attempt %d: %d numbers of events that were taken were given to others, and %d of refused ones", attempt+1, taken, refused)
			return
		}
	}
	t.Fatal("the server has forgotten nothing")
}

// forget returns how many numbers were given twice, of events that were taken and of others.
func (d database) forget(t *testing.T, server stoppable) (taken, refused int) {
	const count = 20
	isRefused := func(id string) bool {
		return strings.HasPrefix(id, "forgotten/") && strings.ContainsAny(id[len(id)-1:], "13579")
	}
	d.reconnect()
	table, s := d.table(t, outbox.Config{}), newSink()
	sending, release := s.hold(func(r framework.Record) bool { return isRefused(r.ID) })
	publish := func(name string, before ...string) error {
		return d.InTx(t.Context(), func(tx *sql.Tx) error {
			for _, statement := range before {
				if _, err := tx.Exec(statement); err != nil {
					return err
				}
			}
			records := make([]framework.Record, count)
			for n := range records {
				records[n] = framework.Record{ID: fmt.Sprintf("%s/%d", name, n), Key: fmt.Sprintf("%s %d", name, n)}
			}
			return table.Publisher(outbox.SQL(tx)).Publish(t.Context(), "events", records...)
		})
	}
	config := quick()
	config.Lease = time.Minute
	relay, stop := start(t, d, table, s, config)
	eventually(t, "the relay has its slots", func() bool { return relay.Stats().Slots == outbox.Slots })
	if err := publish("forgotten", d.late(t)...); err != nil {
		t.Fatal(err)
	}
	if n := len(receive(t, sending)); n != count {
		t.Fatalf("%d events are being sent", n)
	}
	before := d.events(t)
	server.Stop(t)
	server.Start(t)
	d.reconnect()
	eventually(t, "others are written", func() bool { return publish("new") == nil })
	for row, id := range d.events(t) {
		switch was, ok := before[row]; {
		case !ok || was == id:
		case isRefused(was):
			refused++
		default:
			taken++
		}
	}
	close(release)
	s.waitFor(t, "what was committed is sent", func(all []framework.Record) bool {
		first, _ := distinct(slices.DeleteFunc(slices.Clone(all), func(r framework.Record) bool { return !strings.HasPrefix(r.ID, "new/") }))
		return len(first) == count
	})
	const others = " WHERE event_id LIKE 'new%'"
	eventually(t, "it is deleted", func() bool { return d.Count(t, d.Name+others) == 0 })
	stop()
	if n := d.Count(t, d.Name+"_parked"+others); n > 0 {
		t.Errorf("%d keys are parked", n)
	}
	return taken, refused
}

// reconnect closes connections that may be to a server that has died.
func (d database) reconnect() {
	d.SetMaxIdleConns(0)
	d.SetMaxIdleConns(12)
}

// events are those of the table, by their numbers.
func (d database) events(t testing.TB) map[int64]string {
	t.Helper()
	rows, err := d.Query("SELECT id, event_id FROM " + d.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	events := map[int64]string{}
	for rows.Next() {
		var row int64
		var id string
		if err := rows.Scan(&row, &id); err != nil {
			t.Fatal(err)
		}
		events[row] = id
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return events
}

// late makes MariaDB show commits before they are on disk, until it starts again, and returns what makes PostgreSQL do so in a
// transaction. PostgreSQL writes full pages of its log soon, so the transaction begins on a new one.
func (d database) late(t testing.TB) (statements []string) {
	t.Helper()
	if d.Dialect == outbox.Postgres {
		if _, err := d.Exec("SELECT pg_switch_wal()"); err != nil {
			t.Fatal(err)
		}
		return []string{"SET LOCAL synchronous_commit = off"}
	}
	root, err := sql.Open(d.Driver, strings.Replace(d.Address, "millrace:", "root:", 1))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, statement := range []string{"SET GLOBAL innodb_flush_log_at_timeout = 2700", "SET GLOBAL innodb_flush_log_at_trx_commit = 0"} {
		if _, err := root.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	return nil
}
