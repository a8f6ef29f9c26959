package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
)

func TestCreate(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table := d.without(t, outbox.Config{})
		if err := table.Check(t.Context(), d.DB); !errors.Is(err, outbox.ErrNoTable) || !strings.Contains(err.Error(), "outbox.Table.Create") {
			t.Errorf("no table: %v", err)
		}
		var creating sync.WaitGroup
		for range 3 {
			creating.Go(func() {
				if err := table.Create(context.Background(), d.DB); err != nil {
					t.Error(err)
				}
			})
		}
		creating.Wait()
		if err := table.Check(t.Context(), d.DB); err != nil {
			t.Error(err)
		}
		d.write(t, table, "events", event("k", 1))
		if _, err := d.Exec("INSERT INTO " + d.Name + " (slot, topic, event_id) VALUES (16, 't', 'i')"); err == nil {
			t.Error("a row in a slot that no relay reads is taken")
		}
		if err := table.Create(t.Context(), d.DB); err != nil || d.count(t) != 1 {
			t.Errorf("made again: %v, %d rows", err, d.count(t))
		}
		if _, err := d.Exec(fmt.Sprintf("INSERT INTO %s_version (version) VALUES (%d)", d.Name, table.Version()+1)); err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{
			"Check": table.Check(t.Context(), d.DB), "Create": table.Create(t.Context(), d.DB),
			"Run": newRelay(t, d, table).Run(t.Context()),
		} {
			if !errors.Is(err, outbox.ErrVersion) || !strings.Contains(err.Error(), "use a release") {
				t.Errorf("%s with a newer table: %v", what, err)
			}
		}
	})
}

func newRelay(t *testing.T, d database, table *outbox.Table) *outbox.Relay {
	relay, err := outbox.NewRelay(table, d.DB, newSink(), outbox.RelayConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return relay
}

// Create gives up with its context while another process changes the tables, and can be called again.
func TestCreateEndsWithItsContext(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		lock := map[outbox.Dialect]string{
			outbox.Postgres: "SELECT pg_advisory_xact_lock(hashtext('millrace schema " + d.Name + "'))",
			outbox.MySQL:    "SELECT GET_LOCK('millrace schema " + d.Name + "', 1)",
		}[d.Dialect]
		if lock == "" {
			return // SQLite waits for its busy_timeout
		}
		other, err := d.Begin()
		if err != nil {
			t.Fatal(err)
		}
		defer other.Rollback()
		if _, err := other.Exec(lock); err != nil {
			t.Fatal(err)
		}
		table := d.without(t, outbox.Config{})
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- table.Create(ctx, d.DB) }()
		select {
		case err = <-done:
		case <-time.After(30 * time.Second):
			err = errors.New("it goes on")
			defer func() { <-done }()
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Create with a context that is over: %v", err)
		}
		if d.Dialect == outbox.MySQL {
			_, _ = other.Exec("DO RELEASE_LOCK('millrace schema " + d.Name + "')")
		}
		_ = other.Rollback()
		if t.Failed() {
			return
		}
		if err := table.Create(t.Context(), d.DB); err != nil {
			t.Error(err)
		}
	})
}

// MySQL's clock is the same in every time zone, also in the hour that comes twice.
func TestClockWithoutZone(t *testing.T) { sqltest.MySQLs(t, clockWithoutZone) }

func clockWithoutZone(t *testing.T, d sqltest.Database) {
	conn, err := d.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	exec := func(statement string, args ...any) {
		if _, err := conn.ExecContext(t.Context(), statement, args...); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	if _, err := conn.ExecContext(t.Context(), "SET time_zone = 'Europe/Berlin'"); err != nil {
		testenv.NotRun(t, "outbox", "a clock in a time zone, on "+d.Driver, err.Error())
	}
	exec("CREATE TABLE " + d.Name + " (at timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3))")
	start := time.Date(2026, 10, 25, 0, 30, 0, 0, time.UTC).Unix()
	exec("SET timestamp = ?", start)
	exec("INSERT INTO " + d.Name + " VALUES ()")
	for minutes := int64(0); minutes <= 120; minutes += 15 {
		exec("SET timestamp = ?", start+60*minutes)
		var now, age int64
		row := conn.QueryRowContext(t.Context(), "SELECT "+d.Dialect.NowMillis()+", "+d.Dialect.AgeMillis("at")+" FROM "+d.Name)
		if err := row.Scan(&now, &age); err != nil {
			t.Fatal(err)
		}
		if now != 1000*(start+60*minutes) || age != 60_000*minutes {
			t.Errorf("after %d minutes the clock is off by %d ms, the age is %d ms", minutes, now-1000*(start+60*minutes), age)
		}
	}
}

// What SQL prints makes the same tables as Create.
func TestSQLForMigrationTools(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table := d.without(t, outbox.Config{SerializeKeys: true})
		for _, statement := range strings.Split(table.SQL(0), ";\n") {
			if strings.TrimSpace(statement) == "" {
				continue
			}
			if _, err := d.Exec(statement); err != nil {
				t.Fatalf("%v in %s", err, statement)
			}
		}
		if err := table.Check(t.Context(), d.DB); err != nil {
			t.Fatal(err)
		}
		s := newSink()
		_, _ = start(t, d, table, s, quick())
		d.write(t, table, "events", event("k", 1))
		s.waitForDistinct(t, 1)
		if rest := table.SQL(table.Version()); rest != "" {
			t.Errorf("from this version on: %q", rest)
		}
	})
}

// Everything of a record comes out as it went in, and its place in its key is added.
func TestRecordsComeOutAsTheyWentIn(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, s := d.table(t, outbox.Config{}), newSink()
		want := []framework.Record{
			{ID: "full", Type: "order.placed", Source: "/shop", Key: "kunde ü", Time: time.Date(2026, 11, 25, 23, 0, 0, 123456789, time.UTC),
				Value: []byte("\x00\xff'\"\\ü"), Metadata: map[string]string{"note": "a 'quoted' \"thing\" ☃ \x01", "traceparent": "00-1"},
				Causes: "a b", Step: "p/s"},
			{ID: "bytes", Key: "\xff\xfe\x00key", Value: []byte{}},
			{ID: "tombstone", Key: "k"},
			{ID: "old", Key: "k", Time: time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC), Value: []byte("x")},
		}
		d.write(t, table, "events", want...)
		d.write(t, table, "events", framework.Record{Key: "no id", Value: []byte("x")})
		_, _ = start(t, d, table, s, quick())
		s.waitForDistinct(t, len(want)+1)
		last := ""
		for i, got := range s.all[:len(want)] {
			sequence := got.Metadata[outbox.MetadataSequence]
			if sequence <= last || len(sequence) != 19 {
				t.Errorf("sequence %q after %q", sequence, last)
			}
			last = sequence
			metadata := maps.Clone(got.Metadata)
			delete(metadata, outbox.MetadataSequence)
			w := want[i]
			if got.ID != w.ID || got.Type != w.Type || got.Source != w.Source || got.Key != w.Key || !got.Time.Equal(w.Time) ||
				string(got.Value) != string(w.Value) || (got.Value == nil) != (w.Value == nil) || !maps.Equal(metadata, w.Metadata) ||
				got.Causes != w.Causes || got.Step != w.Step {
				t.Errorf("wrote %+v\nread  %+v", w, got)
			}
		}
		if id := s.all[len(want)].ID; len(id) < 16 {
			t.Errorf("an event without an id was sent with %q", id)
		}
	})
}

func TestPublishRefuses(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table := d.table(t, outbox.Config{MaxRowBytes: 1000, RequireKey: true})
		good := framework.Record{ID: "good", Key: "k", Value: []byte("x")}
		with := func(change func(*framework.Record)) framework.Record {
			r := good
			r.Metadata = map[string]string{}
			change(&r)
			return r
		}
		for _, test := range []struct {
			name, topic string
			record      framework.Record
			is          error
			says        string
		}{
			{"too large", "t", with(func(r *framework.Record) { r.Value = make([]byte, 1001) }), outbox.ErrTooLarge, "Config.MaxRowBytes is 1000"},
			{"long key", "t", with(func(r *framework.Record) { r.Key = strings.Repeat("k", 1025) }), outbox.ErrTooLarge, "key has 1025 bytes"},
			{"long id", "t", with(func(r *framework.Record) { r.ID = strings.Repeat("k", 256) }), outbox.ErrTooLarge, "id has 256 bytes"},
			{"no key", "t", with(func(r *framework.Record) { r.Key = "" }), outbox.ErrNoKey, framework.MetadataKey},
			{"metadata", "t", with(func(r *framework.Record) { r.Metadata["m"] = "\xff" }), outbox.ErrText, "metadata m"},
			{"metadata key", "t", with(func(r *framework.Record) { r.Metadata["\xff"] = "" }), outbox.ErrText, "metadata key"},
			{"type", "t", with(func(r *framework.Record) { r.Type = "a\x00" }), outbox.ErrText, "type"},
			{"id", "t", with(func(r *framework.Record) { r.ID = "\xff" }), outbox.ErrText, "id"},
			{"topic", "t\xff", good, outbox.ErrText, "topic"},
			{"no topic", "", good, nil, "topic is empty"},
			{"watermark", "t", with(func(r *framework.Record) { r.Watermark = true }), nil, "watermark"},
			{"unreadable", "t", with(func(r *framework.Record) { r.Err = errPoison }), errPoison, "not read well"},
			{"time", "t", with(func(r *framework.Record) { r.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }), nil, "time"},
		} {
			err := d.InTx(t.Context(), func(tx *sql.Tx) error {
				return table.Publisher(outbox.SQL(tx)).Publish(t.Context(), test.topic, good, test.record)
			})
			if err == nil || test.is != nil && !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.says) ||
				!strings.HasPrefix(err.Error(), "outbox: event") {
				t.Errorf("%s: %v", test.name, err)
			}
		}
		tx, err := d.Begin()
		if err != nil {
			t.Fatal(err)
		}
		publisher := table.Publisher(outbox.SQL(tx))
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := publisher.Publish(t.Context(), "t", good); !errors.Is(err, outbox.ErrTxDone) {
			t.Errorf("after the commit: %v", err)
		}
		if n := d.count(t); n != 0 {
			t.Errorf("%d rows were written", n)
		}
		missing, err := outbox.NewTable(d.Dialect, outbox.Config{Name: d.Name + "_x"})
		if err != nil {
			t.Fatal(err)
		}
		err = missing.Publisher(outbox.SQL(d.DB)).Publish(t.Context(), "t", good)
		if !errors.Is(err, outbox.ErrNoTable) || !strings.Contains(err.Error(), "outbox.Table.Create") {
			t.Errorf("no table: %v", err)
		}
		if _, err := d.Exec("ALTER TABLE " + d.Name + " RENAME COLUMN source TO origin"); err != nil {
			t.Fatal(err)
		}
		if err := table.Publisher(outbox.SQL(d.DB)).Publish(t.Context(), "t", good); !errors.Is(err, outbox.ErrVersion) {
			t.Errorf("another table: %v", err)
		}
	})
}

// Whoever may only read is told so, by Publish and by Run.
func TestReadOnly(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table := d.table(t, outbox.Config{})
		var reader *sql.DB
		var err error
		switch d.Dialect {
		case outbox.SQLite:
			reader, err = sql.Open("sqlite", d.Address+"&_pragma=query_only(1)")
		case outbox.Postgres:
			reader, err = sql.Open("pgx", d.Address+"&default_transaction_read_only=on")
		case outbox.MySQL:
			var variable, value string // they have no name for it in common
			if err := d.QueryRow("SHOW VARIABLES WHERE Variable_name IN ('tx_read_only', 'transaction_read_only')").Scan(&variable, &value); err != nil {
				t.Fatal(err)
			}
			reader, err = sql.Open("mysql", d.Address+"?"+variable+"=1")
		}
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		if err := table.Publisher(outbox.SQL(reader)).Publish(t.Context(), "t", event("k", 1)); !errors.Is(err, outbox.ErrDenied) {
			t.Errorf("Publish: %v", err)
		}
		relay, err := outbox.NewRelay(table, reader, newSink(), outbox.RelayConfig{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := relay.Run(ctx); !errors.Is(err, outbox.ErrDenied) {
			t.Errorf("Run: %v", err)
		}
	})
}

// Writers of one key wait for each other with SerializeKeys, and only those.
func TestSerializeKeys(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		if d.Dialect == outbox.SQLite {
			return // one writer in any case
		}
		table, s := d.table(t, outbox.Config{SerializeKeys: true}), newSink()
		first, err := d.Begin()
		if err != nil {
			t.Fatal(err)
		}
		defer first.Rollback()
		if err := table.Publisher(outbox.SQL(first)).Publish(t.Context(), "events", event("a", 1), event("b", 1)); err != nil {
			t.Fatal(err)
		}
		second := make(chan error, 1)
		go func() {
			second <- d.InTx(context.Background(), func(tx *sql.Tx) error {
				return table.Publisher(outbox.SQL(tx)).Publish(context.Background(), "events", event("b", 2), event("a", 2))
			})
		}()
		another := lockedApart(d.Name, "events", "a", "b")
		d.write(t, table, "events", event(another, 1)) // does not wait
		select {
		case err := <-second:
			t.Fatalf("the second transaction did not wait for the first: %v", err)
		case <-time.After(200 * time.Millisecond): // it would have come by now
		}
		if err := table.Publisher(outbox.SQL(first)).Publish(t.Context(), "events", event("a", 10), event("b", 10)); err != nil {
			t.Fatal(err)
		}
		if err := first.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := <-second; err != nil {
			t.Fatal(err)
		}
		_, _ = start(t, d, table, s, quick())
		s.waitForDistinct(t, 7)
		o := newOracle()
		o.commit(event(another, 1), event("a", 1), event("b", 1), event("a", 10), event("b", 10), event("a", 2), event("b", 2))
		o.check(t, s)
	})
}

// lockedApart is a key that shares no lock with some others on MariaDB, where all keys share 256; see Publisher.lock.
func lockedApart(table, topic string, others ...string) string {
	lock := func(key string) uint64 {
		hash := fnv.New64a()
		_, _ = hash.Write([]byte(table + "\x00" + topic + "\x00" + key))
		return hash.Sum64() % 256
	}
	for i := 0; ; i++ {
		key := fmt.Sprint("another", i)
		if !slices.ContainsFunc(others, func(other string) bool { return lock(other) == lock(key) }) {
			return key
		}
	}
}

func TestWatermillPublisher(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, s := d.table(t, outbox.Config{}), newSink()
		if err := d.InTx(t.Context(), func(tx *sql.Tx) error {
			publisher := table.Watermill(outbox.SQL(tx))
			msg := message.NewMessage("m1", message.Payload("hello"))
			msg.Metadata.Set(framework.MetadataKey, "k")
			msg.Metadata.Set("note", "n")
			if err := publisher.Publish("events", msg); err != nil {
				return err
			}
			return errors.Join(publisher.Publish("events"), publisher.Close())
		}); err != nil {
			t.Fatal(err)
		}
		_, _ = start(t, d, table, s, quick())
		s.waitForDistinct(t, 1)
		if r := s.all[0]; r.ID != "m1" || r.Key != "k" || string(r.Value) != "hello" || r.Metadata["note"] != "n" {
			t.Errorf("got %+v", r)
		}
	})
}

func TestPgx(t *testing.T) {
	d := database{sqltest.Postgres(t)}
	table, s := d.table(t, outbox.Config{SerializeKeys: true}), newSink()
	conn, err := pgx.Connect(t.Context(), services.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	publisher := table.Publisher(outbox.Pgx(tx))
	if err := publisher.Publish(t.Context(), "events", event("k", 1), framework.Record{ID: "2", Key: "k\xff"}); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := publisher.Publish(t.Context(), "events", event("k", 2)); !errors.Is(err, outbox.ErrTxDone) {
		t.Errorf("after the commit: %v", err)
	}
	_, _ = start(t, d, table, s, quick())
	s.waitForDistinct(t, 2)
	if s.all[1].Value != nil || s.all[1].Key != "k\xff" {
		t.Errorf("got %+v", s.all)
	}
}

func TestConfigs(t *testing.T) {
	for name, says := range map[string]string{"1x": "digits", "a.b.c": "digits", "a; DROP": "digits", strings.Repeat("n", 49): "at most 48", ".a": "digits"} {
		if _, err := outbox.NewTable(outbox.SQLite, outbox.Config{Name: name}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if _, err := outbox.NewTable(0, outbox.Config{}); err == nil || !strings.Contains(err.Error(), "Postgres, MySQL or SQLite") {
		t.Errorf("no dialect: %v", err)
	}
	for dialect, says := range map[outbox.Dialect]string{outbox.SQLite: "sqlite has no days", outbox.MySQL: "mysql has no days"} {
		if _, err := outbox.NewTable(dialect, outbox.Config{KeepSent: time.Hour}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("KeepSent on %v: %v", dialect, err)
		}
	}
	if _, err := outbox.NewTable(outbox.Postgres, outbox.Config{KeepSent: -1}); err == nil || !strings.Contains(err.Error(), "KeepSent is negative") {
		t.Errorf("KeepSent below 0: %v", err)
	}
	table, err := outbox.NewTable(outbox.Postgres, outbox.Config{Name: "Shop.outbox"})
	if err != nil || table.Channel() != "shop_outbox" {
		t.Errorf("%v, channel %q", err, table.Channel())
	}
	_, err = outbox.NewRelay(nil, nil, nil, outbox.RelayConfig{Lease: 1, PollMin: 2, PollMax: 1, WindowRows: -1})
	for _, says := range []string{"must not be nil", "Lease is", "PollMin is", "WindowRows is negative"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q is not in: %v", says, err)
		}
	}
	sqlite, _ := outbox.NewTable(outbox.SQLite, outbox.Config{})
	if _, err := outbox.NewNotifier(sqlite, nil, nil); err == nil || !strings.Contains(err.Error(), "Relay.Wake") {
		t.Errorf("a notifier on SQLite: %v", err)
	}
}

func TestBacklog(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table := d.table(t, outbox.Config{})
		if b, err := table.Backlog(t.Context(), d.DB); err != nil || b != (outbox.Backlog{}) {
			t.Errorf("of an empty table: %+v, %v", b, err)
		}
		d.write(t, table, "events", event("k", 1), event("k", 2))
		eventually(t, "the oldest event gets older", func() bool {
			b, err := table.Backlog(t.Context(), d.DB)
			if err != nil {
				t.Fatal(err)
			}
			if b.Pending != 2 || b.More || b.Oldest < 0 || b.Oldest > time.Minute {
				t.Fatalf("%+v", b)
			}
			return b.Oldest > 0
		})
	})
}
