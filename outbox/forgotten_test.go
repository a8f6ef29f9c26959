package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
)

// A number that is given to another event while the first is being sent: when that one is not taken, the other is not
// parked for it.
func TestNumberIsGivenTwiceBeforeParking(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, s := d.table(t, outbox.Config{}), newSink()
		sending, release := s.hold(func(r framework.Record) bool { return r.ID == "forgotten" })
		d.write(t, table, "events", framework.Record{ID: "forgotten", Key: "k"})
		parked := make(parkedHook, 10)
		config := quick()
		config.Hooks = []any{parked}
		_, stop := start(t, d, table, s, config)
		receive(t, sending)
		d.give(t, "", "new")
		close(release)
		if p := receive(t, parked); p.EventID != "forgotten" {
			t.Errorf("parked is %+v", p)
		}
		s.waitForDistinct(t, 1)
		eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
		stop()
		if s.all[0].ID != "new" || d.Count(t, d.Name+"_parked") > 0 {
			t.Errorf("sent %v, parked %d", s.all, d.Count(t, d.Name+"_parked"))
		}
	})
}

// What an operator has seen under a number is not done to another event that has come under it; and a key that was parked
// for an event that is gone goes on.
func TestNumberIsGivenTwiceBeforeAnOperatorActs(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, s := d.table(t, outbox.Config{}), newSink()
		d.write(t, table, "events", framework.Record{ID: "seen", Key: "k"})
		if _, err := d.Exec("INSERT INTO " + d.Name + "_parked (row_id, slot, topic, event_key, event_id, attempts, error, retry_at) " +
			"SELECT id, slot, topic, event_key, event_id, 3, 'not taken', 0 FROM " + d.Name); err != nil {
			t.Fatal(err)
		}
		parked, err := table.Parked(t.Context(), d.DB, 10)
		if err != nil || len(parked) != 1 {
			t.Fatalf("parked %v, %v", parked, err)
		}
		row := parked[0].Row
		refused := func(what string, call func(ctx context.Context, db *sql.DB, row int64, event string) error, event string) {
			t.Helper()
			if err := call(t.Context(), d.DB, row, event); !errors.Is(err, outbox.ErrNotParked) || !strings.Contains(err.Error(), event) {
				t.Errorf("%s: %v", what, err)
			}
		}
		holds := func(rows, parked, dead int) {
			t.Helper()
			if r, p, g := d.count(t), d.Count(t, d.Name+"_parked"), d.Count(t, d.Name+"_dead"); r != rows || p != parked || g != dead {
				t.Fatalf("%d rows, %d parked, %d dead letters; want %d, %d, %d", r, p, g, rows, parked, dead)
			}
		}
		d.give(t, "", "new")
		refused("dead-letter what is gone", table.DeadLetter, "seen")
		refused("dead-letter what is not parked", table.DeadLetter, "new")
		d.give(t, "_parked", "new")
		refused("dead-letter another", table.DeadLetter, "seen")
		refused("resume another", table.Resume, "seen")
		holds(1, 1, 0)
		if err := table.DeadLetter(t.Context(), d.DB, row, "new"); err != nil {
			t.Fatal(err)
		}
		refused("resend another", table.Resend, "seen")
		refused("discard another", table.Discard, "seen")
		holds(0, 0, 1)
		if err := table.Resend(t.Context(), d.DB, row, "new"); err != nil {
			t.Fatal(err)
		}
		holds(1, 0, 0)
		if _, err := d.Exec("INSERT INTO " + d.Name + "_parked (row_id, slot, topic, event_key, event_id, attempts, error, retry_at) " +
			"SELECT id, slot, topic, event_key, 'seen', 3, 'not taken', 0 FROM " + d.Name); err != nil {
			t.Fatal(err)
		}
		_, stop := start(t, d, table, s, quick())
		s.waitForDistinct(t, 1)
		stop()
		holds(0, 0, 0)
	})
}

// give gives the number of the only row of a table to another event.
func (d database) give(t testing.TB, table, event string) {
	t.Helper()
	statement := "UPDATE " + d.Name + table + " SET event_id = $1"
	if d.Dialect == outbox.MySQL {
		statement = strings.Replace(statement, "$1", "?", 1)
	}
	if _, err := d.Exec(statement, event); err != nil {
		t.Fatal(err)
	}
}

// parkedHook is told what is parked.
type parkedHook chan outbox.Parked

func (h parkedHook) OnParked(p outbox.Parked) { h <- p }

// hold makes the first call of a sink send its events to sending, and wait for release to be closed. Whatever call has a bad
// event is refused for good.
func (s *sink) hold(bad func(framework.Record) bool) (sending chan []framework.Record, release chan struct{}) {
	sending, release = make(chan []framework.Record, 1), make(chan struct{})
	s.setFail(func(ctx context.Context, _ string, records []framework.Record) error {
		select {
		case <-release:
		case sending <- records:
			select {
			case <-release:
			case <-ctx.Done():
				return ctx.Err()
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		if slices.ContainsFunc(records, bad) {
			return errPoison
		}
		return nil
	})
	return sending, release
}

func receive[T any](t testing.TB, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(60 * time.Second):
		t.Fatal("nothing came in time")
	}
	return v
}

// A database without an encoding may hold ids that are no text. They name their rows all the same.
func TestIDsThatAreNoText(t *testing.T) {
	all := database{sqltest.Postgres(t)}
	if _, err := all.Exec("CREATE DATABASE " + all.Name + " ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"); err != nil {
		testenv.NotRun(t, "outbox", "a database of PostgreSQL without an encoding", err.Error())
	}
	t.Cleanup(func() {
		if _, err := all.Exec("DROP DATABASE " + all.Name + " WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	address, err := url.Parse(all.Address)
	if err != nil {
		t.Fatal(err)
	}
	address.Path = "/" + all.Name
	d := database{sqltest.Open(t, outbox.Postgres, "pgx", address.String())}
	table, s := d.table(t, outbox.Config{}), newSink()
	s.setFail(func(_ context.Context, _ string, records []framework.Record) error {
		if slices.ContainsFunc(records, func(r framework.Record) bool { return r.Key == "bad" }) {
			return errPoison
		}
		return nil
	})
	if _, err := d.Exec("INSERT INTO " + d.Name + ` (topic, event_key, event_id) VALUES ('events', 'good', E'\xff1'), ('events', 'bad', E'\xff2')`); err != nil {
		t.Fatal(err)
	}
	_, stop := start(t, d, table, s, quick())
	var parked []outbox.Parked
	eventually(t, "one is deleted, the other parked", func() bool {
		var err error
		if parked, err = table.Parked(t.Context(), d.DB, 10); err != nil {
			t.Fatal(err)
		}
		return d.count(t) == 1 && len(parked) == 1
	})
	s.setFail(nil)
	row, event := parked[0].Row, parked[0].EventID
	for _, call := range []func(context.Context, *sql.DB, int64, string) error{table.DeadLetter, table.Resend} {
		if err := call(t.Context(), d.DB, row, event); err != nil {
			t.Error(err)
		}
	}
	s.waitForDistinct(t, 2)
	stop()
}
