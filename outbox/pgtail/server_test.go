package pgtail_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/sqldb"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
	"github.com/millrace/millrace/outbox/pgtail"
)

// Fault 3: the server is stopped at once while events are written and sent, and started again. It may have forgotten how
// far the slot was: what the log shows again is not sent again where it was deleted. A transaction whose COMMIT got no
// answer may have been committed: its events may come, and must then be in order.
func TestServerStopsAndComesBack(t *testing.T) {
	server := services.OwnPostgres(t)
	d := open(t, sqltest.Open(t, sqldb.Postgres, "pgx", server.Address))
	s := newSink()
	relay, stop := d.start(t, s, d.quick())
	tailing(t, relay)
	var writing sync.WaitGroup
	committed := make([][]string, 3)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for w := range committed {
		writing.Go(func() {
			pace := time.NewTicker(3 * time.Millisecond)
			defer pace.Stop()
			for n := 1; ctx.Err() == nil; n++ {
				<-pace.C
				r := event(fmt.Sprint("w", w), n)
				err := d.InTx(context.Background(), func(tx *sql.Tx) error { return d.publish(tx, r) })
				if err == nil {
					committed[w] = append(committed[w], r.ID)
				}
			}
		})
	}
	for range 3 {
		tailing(t, relay)
		s.waitFor(t, len(s.snapshot())+100)
		server.Stop(t)
		server.Start(t)
	}
	tailing(t, relay)
	s.waitFor(t, len(s.snapshot())+100)
	cancel()
	writing.Wait()
	eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
	stop()
	first, duplicates := distinct(s.snapshot())
	came, last := map[string]bool{}, map[string]int{}
	for _, r := range first {
		came[r.ID] = true
		var n int
		if _, err := fmt.Sscanf(strings.TrimPrefix(r.ID, r.Key), "-%d", &n); err != nil || n <= last[r.Key] {
			t.Errorf("%s came after number %d", r.ID, last[r.Key])
		}
		last[r.Key] = n
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
	t.Logf("%d committed, %d sent, %d duplicates", total, len(first), duplicates)
}

// Fault 11: a slot that was dropped while no relay ran is an error at the start that says what to do; with PollWithoutLog
// the table is polled and a new slot made. Either way nothing is lost.
func TestSlotIsMissing(t *testing.T) {
	d := open(t, sqltest.Postgres(t))
	o := newOracle()
	d.checkLost(t, o, "missing", func() { d.dropSlot(t) })
}

// The same for a slot that kept more of the log than the server allows.
func TestSlotIsInvalidated(t *testing.T) {
	server := services.OwnPostgres(t)
	d := open(t, sqltest.Open(t, sqldb.Postgres, "pgx", server.Address))
	d.checkLost(t, newOracle(), "lost", func() { d.invalidate(t) })
}

// invalidate makes the server give the slot up: its log is longer than it is to keep.
func (d database) invalidate(t testing.TB) {
	t.Helper()
	d.exec(t, "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
	d.exec(t, "SELECT pg_reload_conf()")
	d.exec(t, "CREATE TABLE IF NOT EXISTS "+d.Name+"_filler (i int)")
	eventually(t, "the slot is invalidated", func() bool {
		d.exec(t, "INSERT INTO "+d.Name+"_filler VALUES (1)")
		d.exec(t, "SELECT pg_switch_wal()")
		d.exec(t, "CHECKPOINT")
		return d.status(t).WAL == "lost"
	})
	d.exec(t, "ALTER SYSTEM RESET max_slot_wal_keep_size")
	d.exec(t, "SELECT pg_reload_conf()")
}

func (d database) checkLost(t *testing.T, o *oracle, status string, lose func()) {
	t.Helper()
	s := newSink()
	put := func(from, to int) {
		for n := from; n < to; n++ {
			r := []framework.Record{event("a", n), event(fmt.Sprint("key", n), n)}
			d.write(t, r...)
			o.commit(r...)
		}
	}
	relay, stop := d.start(t, s, d.quick())
	tailing(t, relay)
	put(0, 20)
	s.waitFor(t, o.size)
	stop()
	put(20, 40)
	lose()
	if now := d.status(t); now.WAL != status {
		t.Errorf("the status is %+v", now)
	}
	strict, err := outbox.NewRelay(d.table, d.DB, s, d.quick())
	if err != nil {
		t.Fatal(err)
	}
	err = strict.Run(t.Context())
	if !errors.Is(err, outbox.ErrLogLost) || !strings.Contains(err.Error(), "PollWithoutLog") || !strings.Contains(err.Error(), d.slot()) {
		t.Errorf("Run has ended with: %v", err)
	}
	if n := d.count(t); n != 40 {
		t.Errorf("%d of 40 rows are in the table", n)
	}
	config := d.quick()
	config.PollWithoutLog = true
	relay, stop = d.start(t, s, config)
	s.waitFor(t, o.size)
	tailing(t, relay)
	put(40, 60)
	s.waitFor(t, o.size)
	eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
	d.slotMoves(t)
	if relay.Stats().Err == nil {
		t.Error("the stats say nothing of the slot")
	}
	stop()
	if duplicates := o.check(t, s.snapshot()); duplicates > 0 {
		t.Errorf("%d duplicates", duplicates)
	}
}

// A slot that goes while the relay reads from it ends Run, or with PollWithoutLog is made anew.
func TestSlotGoesWhileItIsRead(t *testing.T) {
	d := open(t, sqltest.Postgres(t))
	o, s := newOracle(), newSink()
	config := d.quick()
	config.PollWithoutLog = true
	relay, stop := d.start(t, s, config)
	tailing(t, relay)
	for n := range 50 {
		r := event("a", n)
		d.write(t, r)
		o.commit(r)
		if n == 25 {
			eventually(t, "the slot is dropped", func() bool {
				_, err := d.Exec("SELECT pg_terminate_backend(active_pid), pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", d.slot())
				return err == nil
			})
		}
	}
	s.waitFor(t, o.size)
	tailing(t, relay)
	stop()
	o.check(t, s.snapshot())
}

// Somebody else reads from the slot: the relay says so, and what is there is sent when it has gone.
func TestSlotIsInUse(t *testing.T) {
	d := open(t, sqltest.Postgres(t))
	o, s := newOracle(), newSink()
	relay, stop := d.start(t, s, d.quick())
	tailing(t, relay)
	stop()
	free := d.occupy(t)
	defer free()
	r := event("a", 1)
	d.write(t, r)
	o.commit(r)
	busy, err := pgtail.New(d.table, d.Address, pgtail.Config{BusyTimeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	config := d.quick()
	config.Log = busy
	strict, err := outbox.NewRelay(d.table, d.DB, s, config)
	if err != nil {
		t.Fatal(err)
	}
	if err := strict.Run(t.Context()); !errors.Is(err, outbox.ErrLogInUse) {
		t.Errorf("Run has ended with: %v", err)
	}
	if all := s.snapshot(); len(all) > 0 {
		t.Errorf("%d events were sent", len(all))
	}
	relay, stop = d.start(t, s, d.quick()) // it waits for 90 s
	free()
	s.waitFor(t, 1)
	tailing(t, relay)
	stop()
	o.check(t, s.snapshot())
}

// occupy reads from the slot, until free is called.
func (d database) occupy(t testing.TB) (free func()) {
	t.Helper()
	eventually(t, "the slot is free", func() bool { return !d.status(t).Active })
	conn, err := pgconn.Connect(t.Context(), d.Address+"&replication=database")
	if err != nil {
		t.Fatal(err)
	}
	conn.Frontend().Send(&pgproto3.Query{String: "START_REPLICATION SLOT " + d.slot() + " LOGICAL 0/0 (proto_version '1', publication_names '" + d.slot() + "')"})
	if err := conn.Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	if m, err := conn.ReceiveMessage(t.Context()); err != nil {
		t.Fatal(err)
	} else if _, ok := m.(*pgproto3.CopyBothResponse); !ok {
		t.Fatalf("%+v", m)
	}
	return sync.OnceFunc(func() {
		if err := conn.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// Fault 9: while the broker blocks for longer than wal_sender_timeout, the relay takes no more than it may hold, the
// server does not take it for dead, and the slot stays.
func TestBrokerBlocks(t *testing.T) {
	server := services.OwnPostgres(t)
	d := open(t, sqltest.Open(t, sqldb.Postgres, "pgx", server.Address))
	d.exec(t, "ALTER SYSTEM SET wal_sender_timeout = '1s'")
	d.exec(t, "SELECT pg_reload_conf()")
	o, s := newOracle(), newSink()
	config := d.quick()
	config.WindowRows, config.BatchRows = 200, 50
	release := make(chan struct{})
	s.setFail(func(ctx context.Context, _ string, _ []framework.Record) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	relay, stop := d.start(t, s, config)
	tailing(t, relay)
	reader := d.reader(t)
	patience := time.NewTimer(4 * time.Second) // four times the server's
	value := make([]byte, 20_000)
	for n := range 1500 { // 30 MB: more than sockets hold
		r := framework.Record{ID: fmt.Sprint("k-", n), Key: "k", Value: value}
		d.write(t, r)
		o.commit(r)
	}
	<-patience.C
	if stats := relay.Stats(); stats.Rows > config.WindowRows || stats.Err != nil {
		t.Errorf("%+v", stats)
	}
	if now := d.reader(t); now != reader {
		t.Errorf("the connection %s was followed by %s", reader, now)
	}
	if d.status(t).Lag == 0 {
		t.Error("the slot has moved past what was not sent")
	}
	close(release)
	s.waitFor(t, o.size)
	d.slotMoves(t)
	stop()
	if duplicates := o.check(t, s.snapshot()); duplicates > 0 {
		t.Errorf("%d duplicates", duplicates)
	}
	t.Logf("%d events", o.size)
}

// A server that is not set up for it is an error at the start that says what to do.
func TestWrongServer(t *testing.T) {
	server := services.OwnPostgres(t)
	d := open(t, sqltest.Open(t, sqldb.Postgres, "pgx", server.Address))
	d.exec(t, "CREATE ROLE poor LOGIN")
	d.exec(t, "GRANT ALL ON ALL TABLES IN SCHEMA public TO poor")
	log, err := pgtail.New(d.table, strings.Replace(server.Address, "millrace@", "poor@", 1), pgtail.Config{})
	if err != nil {
		t.Fatal(err)
	}
	config := d.quick()
	config.Log = log
	relay, err := outbox.NewRelay(d.table, d.DB, newSink(), config)
	if err != nil {
		t.Fatal(err)
	}
	var coded *pgconn.PgError
	if err := relay.Run(t.Context()); !errors.As(err, &coded) || coded.Code != "42501" {
		t.Errorf("a user without rights: %v", err)
	}
	d.exec(t, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", d.slot())
	relay, err = outbox.NewRelay(d.table, d.DB, newSink(), d.quick())
	if err != nil {
		t.Fatal(err)
	}
	if err := relay.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "was not made by a relay") {
		t.Errorf("somebody else's slot: %v", err)
	}
}
