package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/testenv"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
)

// A database user who may only read is told so by all that writes, and Run does not wait for it to change.
func TestReadOnlyUser(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table := d.table(t, outbox.Config{})
		d.write(t, table, "events", event("k", 1))
		reader := readerOf(t, d)
		relay, err := outbox.NewRelay(table, reader, newSink(), outbox.RelayConfig{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, topicErr := table.ResumeTopic(ctx, reader, "events")
		for what, err := range map[string]error{
			"Publish":     table.Publisher(outbox.SQL(reader)).Publish(ctx, "events", event("k", 2)),
			"Run":         relay.Run(ctx),
			"Resume":      table.Resume(ctx, reader, 1, "k/1"),
			"ResumeTopic": topicErr,
			"DeadLetter":  table.DeadLetter(ctx, reader, 1, "k/1"),
			"Resend":      table.Resend(ctx, reader, 1, "k/1"),
			"Discard":     table.Discard(ctx, reader, 1, "k/1"),
		} {
			if !errors.Is(err, outbox.ErrDenied) || !strings.Contains(err.Error(), d.Name) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, err := table.Backlog(ctx, reader); err != nil {
			t.Errorf("Backlog only reads: %v", err)
		}
		if n := d.count(t); n != 1 {
			t.Errorf("%d rows", n)
		}
	})
}

// A relay that may not put what was sent where it is kept does not begin: it would send it, and again at each restart.
func TestUserWhoMayNotKeep(t *testing.T) {
	d := database{sqltest.Postgres(t)}
	table, s := d.table(t, outbox.Config{KeepSent: time.Hour}), newSink()
	d.write(t, table, "events", event("k", 1))
	db := readerOf(t, d)
	grant := func(right, table string) {
		t.Helper()
		if _, err := d.Exec("GRANT " + right + " ON " + d.Name + table + " TO " + d.Name + "_reader"); err != nil {
			t.Fatal(err)
		}
	}
	for _, table := range []string{"", "_slots", "_relays", "_parked", "_dead"} {
		grant("SELECT, INSERT, UPDATE, DELETE", table)
	}
	relay, err := outbox.NewRelay(table, db, s, quick())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := relay.Run(ctx); !errors.Is(err, outbox.ErrDenied) || !strings.Contains(err.Error(), "GRANT INSERT ON "+d.Name+"_sent") {
		t.Errorf("Run: %v", err)
	}
	if n := d.count(t); n != 1 || len(s.all) > 0 {
		t.Errorf("%d rows, %d were sent", n, len(s.all))
	}
	grant("INSERT", "_sent")
	_, stop := start(t, database{sqltest.Database{DB: db}}, table, s, quick())
	s.waitForDistinct(t, 1)
	eventually(t, "it is deleted", func() bool { return d.count(t) == 0 })
	stop()
	if kept := query(t, d, "SELECT event_id FROM "+d.Name+"_sent"); len(kept) != 1 {
		t.Errorf("kept are %q", kept)
	}
}

// readerOf opens the database as a user who may only read; of SQLite's file, opened for reading.
func readerOf(t *testing.T, d database) *sql.DB {
	t.Helper()
	run := func(db *sql.DB, statements ...string) {
		t.Helper()
		for _, statement := range statements {
			if _, err := db.Exec(statement); err != nil {
				t.Fatalf("%s: %v", statement, err)
			}
		}
	}
	name, address := d.Name+"_reader", d.Address
	switch d.Dialect {
	case outbox.SQLite:
		address += "&mode=ro"
	case outbox.Postgres:
		var may bool
		if err := d.QueryRow("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").Scan(&may); err != nil || !may {
			testenv.NotRun(t, "outbox", "a user of PostgreSQL who may only read", "the address is not a superuser's")
		}
		run(d.DB, "CREATE ROLE "+name)
		for _, table := range []string{"", "_version", "_slots", "_relays", "_parked", "_dead"} {
			run(d.DB, "GRANT SELECT ON "+d.Name+table+" TO "+name)
		}
		t.Cleanup(func() { run(d.DB, "DROP OWNED BY "+name, "DROP ROLE "+name) })
		address += "&options=-c%20role%3D" + name
	case outbox.MySQL:
		_, place, _ := strings.Cut(d.Address, "@")
		root, err := sql.Open(d.Driver, "root:millrace@"+place)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = root.Close() })
		if err := root.PingContext(t.Context()); err != nil {
			testenv.NotRun(t, "outbox", "a user of MariaDB or MySQL who may only read", err.Error())
		}
		_, database, _ := strings.Cut(place, "/")
		run(root, "CREATE USER "+name+" IDENTIFIED BY 'read'", "GRANT SELECT ON "+database+".* TO "+name)
		t.Cleanup(func() { run(root, "DROP USER "+name) })
		address = name + ":read@" + place
	}
	reader, err := sql.Open(d.Driver, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reader.Close() })
	return reader
}

// What another program inserts, and no relay could send, the table refuses.
func TestTableRefuses(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		_ = d.table(t, outbox.Config{})
		for what, values := range map[string]string{
			"no key":       "0, 'events', NULL, 'id'",
			"no topic":     "0, NULL, '', 'id'",
			"no id":        "0, 'events', '', NULL",
			"no such slot": "16, 'events', '', 'id'",
		} {
			if _, err := d.Exec("INSERT INTO " + d.Name + " (slot, topic, event_key, event_id) VALUES (" + values + ")"); err == nil {
				t.Errorf("%s: it is taken", what)
			}
		}
	})
}

// A transaction that was rolled back is over as one that was committed is.
func TestTransactionIsOver(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table := d.table(t, outbox.Config{})
		for what, end := range map[string]func(*sql.Tx) error{"committed": (*sql.Tx).Commit, "rolled back": (*sql.Tx).Rollback} {
			tx, err := d.Begin()
			if err != nil {
				t.Fatal(err)
			}
			if err := end(tx); err != nil {
				t.Fatal(err)
			}
			if err := table.Publisher(outbox.SQL(tx)).Publish(t.Context(), "events", event("k", 1)); !errors.Is(err, outbox.ErrTxDone) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if n := d.count(t); n != 0 {
			t.Errorf("%d rows", n)
		}
	})
}
