package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
)

// watermillTopic is a topic of watermill-sql's with writers that know nothing of ours.
type watermillTopic struct {
	d       database
	name    string
	payload string // type of the column; "": JSON
}

// onWatermill runs a test on the databases that watermill-sql knows, with a topic that is there already.
func onWatermill(t *testing.T, payload map[outbox.Dialect]string, test func(*testing.T, watermillTopic)) {
	sqltest.Servers(t, func(t *testing.T, d sqltest.Database) {
		w := watermillTopic{d: database{d}, name: d.Name, payload: payload[d.Dialect]}
		for _, q := range w.schema().SchemaInitializingQueries(w.name) {
			if _, err := d.Exec(q.Query); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() {
			for _, table := range []string{"watermill_", "watermill_offsets_"} {
				if _, err := d.Exec("DROP TABLE IF EXISTS " + table + w.name); err != nil {
					t.Error(err)
				}
			}
		})
		test(t, w)
	})
}

func (w watermillTopic) schema() wsql.SchemaAdapter {
	var payload func(string) string
	if w.payload != "" {
		payload = func(string) string { return w.payload }
	}
	if w.d.Dialect == outbox.MySQL {
		return wsql.DefaultMySQLSchema{GeneratePayloadType: payload}
	}
	return wsql.DefaultPostgreSQLSchema{GeneratePayloadType: payload}
}

func (w watermillTopic) offsets() wsql.OffsetsAdapter {
	if w.d.Dialect == outbox.MySQL {
		return wsql.DefaultMySQLOffsetsAdapter{}
	}
	return wsql.DefaultPostgreSQLOffsetsAdapter{}
}

// outbox makes the tables of ours, for a relay of the topic.
func (w watermillTopic) outbox(t testing.TB, change func(*outbox.WatermillTopic)) *outbox.Table {
	t.Helper()
	topic := outbox.WatermillTopic{Topic: w.name}
	if change != nil {
		change(&topic)
	}
	return w.d.table(t, outbox.Config{Watermill: []outbox.WatermillTopic{topic}})
}

// sql is watermill-sql's own publisher in a transaction.
func (w watermillTopic) sql(tx *sql.Tx) message.Publisher {
	publisher, err := wsql.NewPublisher(tx, wsql.PublisherConfig{SchemaAdapter: w.schema()}, watermill.NopLogger{})
	if err != nil {
		panic(err) // of a configuration that is the test's
	}
	return publisher
}

// publish publishes through Watermill's forwarder in a transaction, as a service does.
func (w watermillTopic) publish(tx *sql.Tx, topic string, records ...framework.Record) error {
	messages := make([]*message.Message, len(records))
	for i := range records {
		messages[i] = framework.ToMessage(&records[i])
	}
	return forwarder.NewPublisher(w.sql(tx), forwarder.PublisherConfig{ForwarderTopic: w.name}).Publish(topic, messages...)
}

// write is publish in a transaction of its own.
func (w watermillTopic) write(t testing.TB, topic string, records ...framework.Record) {
	t.Helper()
	if err := w.d.InTx(t.Context(), func(tx *sql.Tx) error { return w.publish(tx, topic, records...) }); err != nil {
		t.Fatal(err)
	}
}

// plain publishes messages without an envelope.
func (w watermillTopic) plain(t testing.TB, messages ...*message.Message) {
	t.Helper()
	if err := w.d.InTx(t.Context(), func(tx *sql.Tx) error { return w.sql(tx).Publish(w.name, messages...) }); err != nil {
		t.Fatal(err)
	}
}

func (w watermillTopic) count(t testing.TB) int {
	t.Helper()
	return w.d.Count(t, "watermill_"+w.name) + w.d.count(t)
}

// What is written by watermill-sql's own publisher through its forwarder's is sent once and in order, with what is written
// into the outbox itself, and nothing is left.
func TestWatermillTopic(t *testing.T) {
	onWatermill(t, nil, func(t *testing.T, w watermillTopic) {
		table, o, s := w.outbox(t, nil), newOracle(), newSink()
		relay, stop := start(t, w.d, table, s, quick())
		ours := writers(t, w.d, table, o, "ours", 2, 20)
		writersWith(t, w.d, w.publish, o, "w", 4, 60)()
		ours()
		s.waitForDistinct(t, o.size())
		eventually(t, "the tables are empty", func() bool { return w.count(t) == 0 })
		stop()
		if duplicates := o.check(t, s); duplicates > 0 {
			t.Errorf("%d duplicates without a fault", duplicates)
		}
		if stats := relay.Stats(); stats.Moved == 0 || stats.Sent != int64(o.size()) {
			t.Errorf("stats %+v, %d events", stats, o.size())
		}
	})
}

// Everything of a message comes out as it went into the forwarder's publisher.
func TestWatermillMessagesComeOutAsTheyWentIn(t *testing.T) {
	onWatermill(t, map[outbox.Dialect]string{outbox.Postgres: "BYTEA", outbox.MySQL: "LONGBLOB"}, func(t *testing.T, w watermillTopic) {
		table, s := w.outbox(t, nil), newSink()
		r := framework.Record{ID: "full", Type: "order.placed", Source: "/shop", Key: "kunde ü", Time: time.Date(2026, 11, 25, 23, 0, 0, 123456789, time.UTC),
			Value: []byte("\x00\xff'\"\\ü"), Metadata: map[string]string{"note": "a 'quoted' \"thing\" ☃ \x01"}}
		w.write(t, "events", r, framework.Record{ID: "large", Key: "k", Value: make([]byte, 2_000_000)})
		_, _ = start(t, w.d, table, s, quick())
		s.waitForDistinct(t, 2)
		got := s.all[slices.IndexFunc(s.all, func(r framework.Record) bool { return r.ID == "full" })]
		if got.Type != r.Type || got.Source != r.Source || got.Key != r.Key || !got.Time.Equal(r.Time) || string(got.Value) != string(r.Value) ||
			got.Metadata["note"] != r.Metadata["note"] || got.Metadata[outbox.MetadataSequence] == "" || s.topics[0] != "events" {
			t.Errorf("wrote %+v\nread  %+v", r, got)
		}
	})
}

// A transaction that began first, and so has the lower transaction id, writes a key last; and one that commits late has
// the lower offset. Both come in the order of the commits, and hold up nothing else.
func TestWatermillOrderOfCommits(t *testing.T) {
	onWatermill(t, nil, func(t *testing.T, w watermillTopic) {
		table, o, s := w.outbox(t, nil), newOracle(), newSink()
		_, _ = start(t, w.d, table, s, quick())
		late, err := w.d.Begin()
		if err != nil {
			t.Fatal(err)
		}
		defer late.Rollback()
		if err := w.publish(late, "events", event("late", 1)); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for n := 1; time.Since(began) < 200*time.Millisecond; n++ {
			w.write(t, "events", event("quick", n))
			o.commit(event("quick", n))
			s.waitForDistinct(t, n)
		}
		last := event("quick", 1_000_000)
		if err := w.publish(late, "events", last); err != nil {
			t.Fatal(err)
		}
		if err := late.Commit(); err != nil {
			t.Fatal(err)
		}
		w.write(t, "events", event("late", 2))
		o.commit(event("late", 1), last, event("late", 2))
		s.waitForDistinct(t, o.size())
		o.check(t, s)
	})
}

// Many messages are moved at once while a transaction has written one below them, and one above: it is not waited for.
func TestWatermillOpenTransactions(t *testing.T) {
	onWatermill(t, nil, func(t *testing.T, w watermillTopic) {
		table, s := w.outbox(t, nil), newSink()
		open := func() {
			tx, err := w.d.Begin()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = tx.Rollback() })
			if err := w.publish(tx, "events", event("open", 1)); err != nil {
				t.Fatal(err)
			}
		}
		open()
		records := make([]framework.Record, 600)
		for i := range records {
			records[i] = event(fmt.Sprint("key", i%7), i)
		}
		w.write(t, "events", records...)
		open()
		_, _ = start(t, w.d, table, s, quick())
		eventually(t, "the tables are empty but for open transactions", func() bool { return w.count(t) == 0 })
		if first, _ := s.distinct(); len(first) != len(records) {
			t.Errorf("%d of %d events were sent", len(first), len(records))
		}
	})
}

// Without a relay the transaction ids and offsets of a topic are mixed; all the same each key comes in order.
func TestWatermillBacklog(t *testing.T) {
	onWatermill(t, nil, func(t *testing.T, w watermillTopic) {
		table, o, s := w.outbox(t, nil), newOracle(), newSink()
		first, err := w.d.Begin()
		if err != nil {
			t.Fatal(err)
		}
		defer first.Rollback()
		if err := w.publish(first, "events", event("first", 1)); err != nil {
			t.Fatal(err)
		}
		for n := range 30 {
			var records []framework.Record
			for k := range 20 {
				records = append(records, event(fmt.Sprint("key", k), n))
			}
			w.write(t, "events", records...)
			o.commit(records...)
		}
		for k := range 20 { // the lowest transaction id, the highest offsets
			r := event(fmt.Sprint("key", k), 30)
			if err := w.publish(first, "events", r); err != nil {
				t.Fatal(err)
			}
			o.commit(r)
		}
		if err := first.Commit(); err != nil {
			t.Fatal(err)
		}
		o.commit(event("first", 1))
		if b, err := table.Backlog(t.Context(), w.d.DB); err != nil || b.Pending != 621 || b.Oldest < 0 || b.Oldest > time.Minute {
			t.Errorf("%+v, %v", b, err)
		}
		config := quick()
		config.BatchRows, config.BatchBytes = 17, 1500
		_, stop := start(t, w.d, table, s, config)
		s.waitForDistinct(t, o.size())
		eventually(t, "the tables are empty", func() bool { return w.count(t) == 0 })
		stop()
		o.check(t, s)
	})
}

// The process that moves and sends is killed at each step, and another goes on.
func TestWatermillKill(t *testing.T) {
	onWatermill(t, nil, func(t *testing.T, w watermillTopic) {
		_, o := w.outbox(t, nil), newOracle()
		file := fileSink{path: filepath.Join(t.TempDir(), "sink")}
		c := child{dialect: w.d.Dialect, driver: w.d.Driver, address: w.d.Address, table: w.d.Name, file: file.path, name: "relay",
			lease: 5 * time.Second, watermill: w.name}
		killed := 0
		for _, point := range []string{"outbox.intake.read", "outbox.intake.before", "outbox.intake.after", "outbox.send.after", "outbox.delete.before"} {
			wait := writersWith(t, w.d, w.publish, o, point+"-", 2, 8)
			c.crash = point + " 2"
			cmd := c.command()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			exited := make(chan bool, 1)
			go func() { exited <- waitFor(cmd) }()
			wait()
			for n, running := 1, true; running; n++ { // until it has died
				r := event(point, n)
				w.write(t, "topic-0", r)
				o.commit(r)
				select {
				case died := <-exited:
					running = false
					if died {
						killed++
					}
				case <-time.After(2 * time.Millisecond):
				}
			}
		}
		if killed != 5 {
			t.Errorf("%d of 5 relays were killed", killed)
		}
		c.crash = ""
		cmd := c.command()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.write(t, "topic-0", event("last", 1))
		o.commit(event("last", 1))
		eventually(t, "the tables are empty", func() bool { return w.count(t) == 0 })
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
		s := newSink()
		s.all, _ = file.lines(t)
		t.Logf("%d events, %d duplicates", o.size(), o.check(t, s))
	})
}

// Relays come and go, and with them who moves.
func TestWatermillRelaysComeAndGo(t *testing.T) {
	onWatermill(t, nil, func(t *testing.T, w watermillTopic) {
		table, o, s := w.outbox(t, nil), newOracle(), newSink()
		config := quick()
		config.Lease, config.BatchRows = 300*time.Millisecond, 10
		var stops []func()
		for round := range 6 {
			wait := writersWith(t, w.d, w.publish, o, fmt.Sprintf("round%d-", round), 2, 20)
			relay, stop := start(t, w.d, table, s, config)
			stops = append(stops, stop)
			want := outbox.Slots / (len(stops) + 1)
			eventually(t, "the new relay has its share", func() bool { return relay.Stats().Slots >= want })
			if len(stops) == 3 {
				stops[0]()
				stops = stops[1:]
			}
			wait()
		}
		eventually(t, "the tables are empty", func() bool { return w.count(t) == 0 })
		for _, stop := range stops {
			stop()
		}
		s.overlap = false // calls of two relays may
		t.Logf("%d events, %d duplicates", o.size(), o.check(t, s))
	})
}

// Watermill's own forwarder has sent the first messages of a topic; the relay goes on after them, and leaves them where
// they are, unless it is told to send them too.
func TestWatermillForwarderBefore(t *testing.T) {
	onWatermill(t, nil, func(t *testing.T, w watermillTopic) {
		before := newSink()
		w.write(t, "events", event("k", 1), event("k", 2), event("k", 3))
		w.forward(t, before, 3)
		if n := w.d.Count(t, "watermill_"+w.name); n != 3 {
			t.Fatalf("%d rows are left by the forwarder", n)
		}
		table, s := w.outbox(t, func(c *outbox.WatermillTopic) { c.ConsumerGroup = "forwarding" }), newSink()
		if b, err := table.Backlog(t.Context(), w.d.DB); err != nil || b.Pending != 0 {
			t.Errorf("what was forwarded is pending: %+v, %v", b, err)
		}
		w.write(t, "events", event("k", 4))
		_, stop := start(t, w.d, table, s, quick())
		w.write(t, "events", event("k", 5))
		s.waitForDistinct(t, 2)
		eventually(t, "only what was forwarded is left", func() bool { return w.count(t) == 3 })
		stop()
		o := newOracle()
		o.commit(event("k", 4), event("k", 5))
		o.check(t, s)

		table, s = w.outbox(t, func(c *outbox.WatermillTopic) { c.ConsumerGroup, c.SendAcked = "forwarding", true }), newSink()
		_, stop = start(t, w.d, table, s, quick())
		s.waitForDistinct(t, 3)
		stop()
		if n := w.count(t); n != 0 {
			t.Errorf("%d rows are left", n)
		}
	})
}

// forward runs Watermill's own forwarder until it has sent n messages and acknowledged them.
func (w watermillTopic) forward(t *testing.T, s *sink, n int) {
	t.Helper()
	subscriber, err := wsql.NewSubscriber(w.d.DB, wsql.SubscriberConfig{
		ConsumerGroup: "forwarding", SchemaAdapter: w.schema(), OffsetsAdapter: w.offsets(), InitializeSchema: true, PollInterval: 10 * time.Millisecond,
	}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := forwarder.NewForwarder(subscriber, messageSink{s}, watermill.NopLogger{}, forwarder.Config{ForwarderTopic: w.name})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := f.Run(context.Background()); err != nil {
			t.Error(err)
		}
	})
	s.waitForDistinct(t, n)
	eventually(t, "the last is acknowledged", func() bool {
		var acked, last int64
		err := w.d.QueryRow("SELECT offset_acked FROM watermill_offsets_" + w.name + " WHERE consumer_group = 'forwarding'").Scan(&acked)
		if err != nil {
			return false
		}
		column := map[outbox.Dialect]string{outbox.Postgres: `"offset"`, outbox.MySQL: "`offset`"}[w.d.Dialect]
		if err := w.d.QueryRow("SELECT MAX(" + column + ") FROM watermill_" + w.name).Scan(&last); err != nil {
			t.Fatal(err)
		}
		return acked == last
	})
	if err := f.Close(); err != nil { // closes the subscriber too
		t.Fatal(err)
	}
	running.Wait()
}

// messageSink is a sink as a publisher of Watermill's.
type messageSink struct{ *sink }

func (s messageSink) Publish(topic string, messages ...*message.Message) error {
	for _, msg := range messages {
		if err := s.sink.Publish(msg.Context(), topic, []framework.Record{framework.FromMessage(msg)}); err != nil {
			return err
		}
	}
	return nil
}

// What is no envelope, and what no event can be made of, goes to the dead letters with all that is known of it, and holds
// up nothing.
func TestWatermillDeadLetters(t *testing.T) {
	onWatermill(t, map[outbox.Dialect]string{outbox.Postgres: "BYTEA", outbox.MySQL: "LONGBLOB"}, func(t *testing.T, w watermillTopic) {
		table, s := w.outbox(t, nil), newSink()
		garbage := message.NewMessage("garbage", []byte("\x00{"))
		garbage.Metadata.Set("note", "n")
		w.write(t, "events", event("k", 1))
		w.plain(t, garbage, message.NewMessage("no destination", []byte(`{"uuid": "x"}`)))
		w.write(t, strings.Repeat("t", 256), event("long topic", 1))
		w.write(t, "events", framework.Record{ID: "zero", Key: "k", Metadata: map[string]string{"note": "a\x00"}})
		w.write(t, "events", event("k", 2))
		relay, stop := start(t, w.d, table, s, quick())
		s.waitForDistinct(t, 2)
		eventually(t, "the tables are empty", func() bool { return w.count(t) == 0 })
		dead, err := table.DeadLetters(t.Context(), w.d.DB, 10)
		if err != nil || len(dead) != 4 {
			t.Fatalf("%+v, %v", dead, err)
		}
		for i, says := range []string{"not a forwarder's envelope", "names no destination_topic", "topic has 256 bytes", "metadata note"} {
			if d := dead[i]; !strings.Contains(d.Error, says) || !strings.Contains(d.Error, "offset") || d.Topic != w.name || d.EventID == "" {
				t.Errorf("%q is not in %+v", says, d)
			}
		}
		if d := dead[0]; d.EventID != "garbage" || string(d.Payload) != "\x00{" {
			t.Errorf("%+v", d)
		}
		eventually(t, "its figures tell of it", func() bool { stats := relay.Stats(); return stats.Err != nil && stats.Moved == 6 }) // after the commit
		if err := table.Resend(t.Context(), w.d.DB, dead[0].Row, dead[0].EventID); err != nil {
			t.Fatal(err)
		}
		s.waitForDistinct(t, 3)
		stop()
		if err := table.Discard(t.Context(), w.d.DB, dead[1].Row, dead[1].EventID); err != nil {
			t.Error(err)
		}
		if dead, err = table.DeadLetters(t.Context(), w.d.DB, 10); err != nil || len(dead) != 2 {
			t.Errorf("one was sent, one discarded: %+v, %v", dead, err)
		}
		if r := s.all[2]; s.topics[2] != w.name || r.ID != "garbage" || string(r.Value) != "\x00{" || r.Metadata["note"] != "n" {
			t.Errorf("%+v", r)
		}
	})
}

// What the outbox's own table refuses for its contents, which a narrower column stands for here, is a dead letter, too, and
// holds nothing up; and what comes with it goes on.
func TestWatermillRowThatDoesNotFit(t *testing.T) {
	onWatermill(t, nil, func(t *testing.T, w watermillTopic) {
		table, s := w.outbox(t, nil), newSink()
		narrow := "ALTER TABLE " + w.d.Name + " ALTER COLUMN metadata TYPE varchar(200)"
		if w.d.Dialect == outbox.MySQL {
			narrow = "ALTER TABLE " + w.d.Name + " MODIFY metadata varchar(200)"
		}
		if _, err := w.d.Exec(narrow); err != nil {
			t.Fatal(err)
		}
		wide := map[string]string{"note": strings.Repeat("n", 300)}
		w.write(t, "events", event("k", 1), framework.Record{ID: "first wide", Key: "k", Metadata: wide}, event("k", 2))
		w.write(t, "events", framework.Record{ID: "second wide", Key: "k", Metadata: wide}, event("k", 3))
		relay, stop := start(t, w.d, table, s, quick())
		s.waitForDistinct(t, 3)
		eventually(t, "the tables are empty", func() bool { return w.count(t) == 0 })
		stop()
		dead, err := table.DeadLetters(t.Context(), w.d.DB, 10)
		if err != nil || len(dead) != 2 {
			t.Fatalf("%+v, %v", dead, err)
		}
		for i, id := range []string{"first wide", "second wide"} {
			if d := dead[i]; !strings.Contains(string(d.Payload), id) || !strings.Contains(d.Error, "offset") || !strings.Contains(d.Error, "does not fit") || !strings.Contains(d.Error, "too long") {
				t.Errorf("%s: %+v", id, d)
			}
		}
		if stats := relay.Stats(); stats.Err == nil || stats.Moved != 5 {
			t.Errorf("%+v", stats)
		}
		for i, r := range s.all {
			if r.ID != event("k", i+1).ID {
				t.Errorf("at place %d is %s", i, r.ID)
			}
		}
	})
}

// A message without an envelope whose metadata the table refuses is a dead letter without them.
func TestWatermillMetadataThatDoNotFit(t *testing.T) {
	onWatermill(t, nil, func(t *testing.T, w watermillTopic) {
		table, s := w.outbox(t, func(c *outbox.WatermillTopic) { c.Plain = true }), newSink()
		narrow := "ALTER TABLE " + w.d.Name + " ALTER COLUMN metadata TYPE varchar(200)"
		if w.d.Dialect == outbox.MySQL {
			narrow = "ALTER TABLE " + w.d.Name + " MODIFY metadata varchar(200)"
		}
		if _, err := w.d.Exec(narrow); err != nil {
			t.Fatal(err)
		}
		wide := message.NewMessage("wide", []byte("{}"))
		wide.Metadata.Set("note", strings.Repeat("n", 300))
		w.plain(t, wide, message.NewMessage("next", []byte("{}")))
		_, stop := start(t, w.d, table, s, quick())
		s.waitForDistinct(t, 1)
		eventually(t, "the tables are empty", func() bool { return w.count(t) == 0 })
		stop()
		dead, err := table.DeadLetters(t.Context(), w.d.DB, 10)
		if err != nil || len(dead) != 1 {
			t.Fatalf("%+v, %v", dead, err)
		}
		if d := dead[0]; d.EventID != "wide" || string(d.Payload) != "{}" || !strings.Contains(d.Error, "without its metadata") || !strings.Contains(d.Error, "too long") {
			t.Errorf("%+v", d)
		}
		if s.all[0].ID != "next" {
			t.Errorf("%+v", s.all[0])
		}
	})
}

// Messages without envelopes go to the topic of their own name, keyed by the metadata that is named, others in the order of
// the table.
func TestWatermillPlain(t *testing.T) {
	onWatermill(t, nil, func(t *testing.T, w watermillTopic) {
		table, o, s := w.outbox(t, func(c *outbox.WatermillTopic) {
			c.Plain, c.KeyMetadata, c.DefaultKey = true, "partition_key", "rest"
		}), newOracle(), newSink()
		_, stop := start(t, w.d, table, s, quick())
		for n := range 20 {
			keyed, other := message.NewMessage(fmt.Sprint("keyed", n), []byte(`{"n": 1}`)), message.NewMessage(fmt.Sprint("other", n), []byte("2"))
			keyed.Metadata.Set("partition_key", "customer")
			w.plain(t, keyed, other)
			o.commit(framework.Record{ID: keyed.UUID, Key: "customer"}, framework.Record{ID: other.UUID, Key: "rest"})
		}
		s.waitForDistinct(t, o.size())
		stop()
		o.check(t, s)
		for i, topic := range s.topics {
			if topic != w.name || string(s.all[i].Value) != `{"n": 1}` && string(s.all[i].Value) != "2" {
				t.Errorf("%+v for topic %s", s.all[i], topic)
			}
		}
	})
}

// A custom envelope is read by the function that its Marshaler has.
func TestWatermillMarshaler(t *testing.T) {
	onWatermill(t, map[outbox.Dialect]string{outbox.Postgres: "BYTEA", outbox.MySQL: "LONGBLOB"}, func(t *testing.T, w watermillTopic) {
		table, s := w.outbox(t, func(c *outbox.WatermillTopic) { c.Unmarshal = reversed{}.Unmarshal }), newSink()
		if err := w.d.InTx(t.Context(), func(tx *sql.Tx) error {
			return forwarder.NewPublisher(w.sql(tx), forwarder.PublisherConfig{ForwarderTopic: w.name, Marshaler: reversed{}}).
				Publish("events", message.NewMessage("m", []byte("hello")))
		}); err != nil {
			t.Fatal(err)
		}
		_, _ = start(t, w.d, table, s, quick())
		s.waitForDistinct(t, 1)
		if r := s.all[0]; r.ID != "m" || string(r.Value) != "hello" {
			t.Errorf("%+v", r)
		}
	})
}

// reversed is JSON from back to front.
type reversed struct{}

func (reversed) Marshal(v any) ([]byte, error) {
	data, err := forwarder.DefaultMarshaler{}.Marshal(v)
	slices.Reverse(data)
	return data, err
}

func (reversed) Unmarshal(data []byte, v any) error {
	data = slices.Clone(data)
	slices.Reverse(data)
	return forwarder.DefaultMarshaler{}.Unmarshal(data, v)
}

// What is missing is named: at the start, and when it goes while the relay runs.
func TestWatermillTableIsMissing(t *testing.T) {
	onWatermill(t, nil, func(t *testing.T, w watermillTopic) {
		table := w.outbox(t, nil)
		relay, err := outbox.NewRelay(table, w.d.DB, newSink(), quick())
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- relay.Run(context.Background()) }()
		eventually(t, "it runs", func() bool { return relay.Stats().Slots == outbox.Slots })
		if _, err := w.d.Exec("DROP TABLE watermill_" + w.name); err != nil {
			t.Fatal(err)
		}
		_, backlogErr := table.Backlog(t.Context(), w.d.DB)
		for what, err := range map[string]error{"Run that runs": <-ended, "Run": relay.Run(t.Context()), "Backlog": backlogErr} {
			if !errors.Is(err, outbox.ErrNoTable) || !strings.Contains(err.Error(), "AutoInitializeSchema") ||
				!strings.Contains(err.Error(), w.name) || strings.Count(err.Error(), "outbox:") != 1 {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
	for says, config := range map[string]outbox.Config{
		"topic \"a b\"": {Watermill: []outbox.WatermillTopic{{Topic: "a b"}}},
		"SQLite":        {Watermill: []outbox.WatermillTopic{{}}},
	} {
		if _, err := outbox.NewTable(outbox.SQLite, config); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q is not in: %v", says, err)
		}
	}
}
