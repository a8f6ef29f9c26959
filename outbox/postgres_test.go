package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/sqldb"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
	"github.com/millrace/millrace/outbox/pglisten"
)

// A server that is read-only for a while, as a primary that was replaced, is waited for.
func TestServerIsReadOnlyForAWhile(t *testing.T) {
	server := services.OwnPostgres(t)
	d := database{sqltest.Open(t, sqldb.Postgres, "pgx", server.Address)}
	table, s := d.table(t, outbox.Config{}), newSink()
	relay, stop := start(t, d, table, s, quick())
	d.write(t, table, "events", event("k", 1))
	s.waitForDistinct(t, 1)
	admin, err := d.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	readOnly := func(value string) {
		for _, statement := range []string{"SET default_transaction_read_only = off", "ALTER SYSTEM SET default_transaction_read_only = " + value, "SELECT pg_reload_conf()"} {
			if _, err := admin.ExecContext(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
	}
	readOnly("on")
	eventually(t, "the relay may not write", func() bool { return errors.Is(relay.Stats().Err, outbox.ErrDenied) })
	failed := relay.Stats().At
	eventually(t, "it has tried again", func() bool { return relay.Stats().At.After(failed) })
	readOnly("off")
	eventually(t, "writers may write", func() bool {
		var value string
		return d.QueryRow("SHOW default_transaction_read_only").Scan(&value) == nil && value == "off"
	})
	eventually(t, "an event is written", func() bool {
		return d.InTx(t.Context(), func(tx *sql.Tx) error {
			return table.Publisher(outbox.SQL(tx)).Publish(t.Context(), "events", event("k", 2))
		}) == nil
	})
	s.waitForDistinct(t, 2)
	stop()
}

// Fault 6: a transaction has drawn its id and not yet inserted. Fault 7: transactions that are open, in this database and
// another one, and a prepared one. None of them holds up what is committed.
func TestOpenTransactionsHoldNothingUp(t *testing.T) {
	d := database{sqltest.Postgres(t)}
	table, o, s := d.table(t, outbox.Config{}), newOracle(), newSink()
	_, _ = start(t, d, table, s, quick())

	drawn, err := d.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer drawn.Rollback()
	var id int64
	if err := drawn.QueryRow("SELECT nextval(pg_get_serial_sequence('" + d.Name + "', 'id'))").Scan(&id); err != nil {
		t.Fatal(err)
	}
	another := d.Name + "_db"
	if _, err := d.Exec("CREATE DATABASE " + another); err != nil {
		t.Fatal(err)
	}
	config, err := pgx.ParseConfig(d.Address)
	if err != nil {
		t.Fatal(err)
	}
	config.Database = another
	elsewhere, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = elsewhere.Close(context.Background())
		if _, err := d.Exec("DROP DATABASE " + another); err != nil {
			t.Error(err)
		}
	}()
	if _, err := elsewhere.Exec(t.Context(), "BEGIN; CREATE TABLE open_write (n int)"); err != nil {
		t.Fatal(err)
	}
	prepared := prepare(t, d, table, event("prepared", 1))

	for n := 1; n <= 50; n++ {
		r := event("k", n)
		d.write(t, table, "events", r)
		o.commit(r)
		s.waitForDistinct(t, n)
	}
	if _, err := drawn.Exec(fmt.Sprintf("INSERT INTO %s (id, topic, event_id, event_key, payload) VALUES (%d, 'events', 'drawn/1', 'drawn', '1')", d.Name, id)); err != nil {
		t.Fatal(err)
	}
	if err := drawn.Commit(); err != nil {
		t.Fatal(err)
	}
	o.commit(event("drawn", 1))
	if prepared != "" {
		if _, err := d.Exec("COMMIT PREPARED '" + prepared + "'"); err != nil {
			t.Fatal(err)
		}
		o.commit(event("prepared", 1))
	}
	s.waitForDistinct(t, o.size())
	o.check(t, s)
}

// prepare leaves a prepared transaction, where the server allows any.
func prepare(t *testing.T, d database, table *outbox.Table, r framework.Record) string {
	t.Helper()
	var allowed string
	if err := d.QueryRow("SHOW max_prepared_transactions").Scan(&allowed); err != nil {
		t.Fatal(err)
	}
	if allowed == "0" {
		t.Log("without a prepared transaction: max_prepared_transactions is 0")
		return ""
	}
	conn, err := d.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), "BEGIN"); err != nil {
		t.Fatal(err)
	}
	if err := table.Publisher(outbox.SQL(conn)).Publish(t.Context(), "events", r); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), "PREPARE TRANSACTION '"+d.Name+"'"); err != nil {
		t.Fatal(err)
	}
	return d.Name
}

// Fault 14: notifications make it quick; when the listener's connection is dead, and it cannot connect, polling goes on.
func TestNotifications(t *testing.T) {
	d := database{sqltest.Postgres(t)}
	table, s := d.table(t, outbox.Config{}), newSink()
	notifier, err := outbox.NewNotifier(table, d.DB, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- notifier.Run(ctx) }()
	listener := &watchedListener{inner: pglisten.New(d.Address, table.Channel()), woken: make(chan struct{}, 100)}
	config := quick()
	config.Listener = listener
	config.PollMin, config.PollMax, config.FullScan, config.Lease = 30*time.Second, time.Minute, time.Hour, time.Minute // only a notification wakes it
	relay, stop := start(t, d, table, s, config)
	<-listener.woken // it listens
	for n := 1; n <= 5; n++ {
		d.write(t, table, "events", event("k", n))
		notifier.Wake()
		s.waitForDistinct(t, n)
	}
	// The connection is cut: the listener comes back by itself.
	for len(listener.woken) > 0 {
		<-listener.woken
	}
	if _, err := d.Exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN " + table.Channel() + "%'"); err != nil {
		t.Fatal(err)
	}
	<-listener.woken
	d.write(t, table, "events", event("k", 6))
	notifier.Wake()
	s.waitForDistinct(t, 6)
	if relay.Stats().Err == nil {
		t.Error("nothing tells of the lost connection")
	}
	stop()

	config = quick()
	config.Listener = pglisten.New("postgres://nobody@127.0.0.1:1/none?connect_timeout=1", table.Channel())
	relay, _ = start(t, d, table, s, config)
	d.write(t, table, "events", event("k", 7))
	s.waitForDistinct(t, 7)
	eventually(t, "the relay tells that it cannot listen", func() bool {
		err := relay.Stats().Err
		return err != nil && strings.Contains(err.Error(), "listen")
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// watchedListener tells when it wakes.
type watchedListener struct {
	inner outbox.Listener
	woken chan struct{}
}

func (l *watchedListener) Listen(ctx context.Context, wake func()) error {
	return l.inner.Listen(ctx, func() {
		wake()
		select {
		case l.woken <- struct{}{}:
		default:
		}
	})
}

// A fatal error of the publisher ends the relay, and nothing is lost.
func TestFatalErrorEndsRelay(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, s := d.table(t, outbox.Config{}), newSink()
		broken := errors.New("broken for good")
		s.setFail(func(context.Context, string, []framework.Record) error { return framework.Fatal(broken) })
		d.write(t, table, "events", event("k", 1))
		relay, err := outbox.NewRelay(table, d.DB, s, quick())
		if err != nil {
			t.Fatal(err)
		}
		if err := relay.Run(t.Context()); !errors.Is(err, broken) {
			t.Errorf("Run: %v", err)
		}
		if n := d.count(t); n != 1 {
			t.Errorf("%d rows are left", n)
		}
	})
}
