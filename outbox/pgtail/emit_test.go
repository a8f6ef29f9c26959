package pgtail_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
	"github.com/millrace/millrace/outbox/pgtail"
)

// emitting is a database whose log has events that are in no table.
func emitting(t testing.TB) database {
	t.Helper()
	d := open(t, sqltest.Postgres(t))
	var err error
	if d.log, err = pgtail.New(d.table, d.Address, pgtail.Config{Messages: true}); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d database) emit(t testing.TB, records ...framework.Record) {
	t.Helper()
	if err := d.InTx(t.Context(), func(tx *sql.Tx) error {
		return d.log.Emitter(outbox.SQL(tx)).Publish(t.Context(), "events", records...)
	}); err != nil {
		t.Fatal(err)
	}
}

// Events that are in the log only come whole, in the order of the commits, and once over a stop in good order; those of a
// transaction that was rolled back do not.
func TestEmit(t *testing.T) {
	d := emitting(t)
	o, s := newOracle(), newSink()
	relay, stop := d.start(t, s, d.quick())
	tailing(t, relay)
	full := framework.Record{ID: "full", Type: "placed", Source: "shop", Key: "\x00\xffkey", Metadata: map[string]string{"trace": "ü"}, Value: []byte{0, 1, 255}, Causes: "c", Step: "s"}
	put := func(records ...framework.Record) { d.emit(t, records...); o.commit(records...) }
	put(full, framework.Record{ID: "tombstone", Key: "t"}, framework.Record{ID: "empty", Key: "e", Value: []byte{}})
	err := d.InTx(t.Context(), func(tx *sql.Tx) error {
		if err := d.log.Emitter(outbox.SQL(tx)).Publish(t.Context(), "events", event("rolled", 1)); err != nil {
			t.Fatal(err)
		}
		return errAway
	})
	if !errors.Is(err, errAway) {
		t.Fatal(err)
	}
	late, err := d.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.log.Emitter(outbox.SQL(late)).Publish(t.Context(), "events", event("k", 2)); err != nil {
		t.Fatal(err)
	}
	put(event("k", 1))
	if err := late.Commit(); err != nil {
		t.Fatal(err)
	}
	o.commit(event("k", 2))
	s.waitFor(t, o.size)
	d.slotMoves(t)
	stop()
	put(event("k", 3))
	_, stop = d.start(t, s, d.quick())
	s.waitFor(t, o.size)
	stop()
	if duplicates := o.check(t, s.snapshot()); duplicates > 0 {
		t.Errorf("%d duplicates", duplicates)
	}
	if d.count(t) != 0 {
		t.Error("there are rows in the table")
	}
	for _, r := range s.snapshot() {
		switch {
		case r.ID == "full" && (r.Type != full.Type || r.Source != full.Source || r.Key != full.Key || len(r.Metadata) != 1 || r.Metadata["trace"] != "ü" ||
			string(r.Value) != string(full.Value) || r.Causes != "c" || r.Step != "s"):
			t.Errorf("it came as %+v", r)
		case r.ID == "tombstone" && r.Value != nil, r.ID == "empty" && (r.Value == nil || len(r.Value) > 0):
			t.Errorf("%s has the value %#v", r.ID, r.Value)
		}
	}
}

// An event that is in the log only and is not taken is put into the table, and those behind it in its key are; others flow.
func TestEmitPoison(t *testing.T) {
	d := emitting(t)
	o, s := newOracle(), newSink()
	var mended atomic.Bool
	s.setFail(func(_ context.Context, _ string, records []framework.Record) error {
		if !mended.Load() && slices.ContainsFunc(records, func(r framework.Record) bool { return r.ID == "bad-2" }) {
			return framework.Permanent(errors.New("poison"))
		}
		return nil
	})
	relay, stop := d.start(t, s, d.quick())
	tailing(t, relay)
	for n := range 30 {
		d.emit(t, event("bad", n), event("good", n))
		o.commit(event("bad", n), event("good", n))
	}
	s.waitFor(t, 32)
	eventually(t, "the key and what is behind it are in the table", func() bool { return d.count(t) >= 28 })
	d.slotMoves(t)
	tailing(t, relay)
	parked, err := d.table.Parked(t.Context(), d.DB, 10)
	if err != nil || len(parked) != 1 || parked[0].EventID != "bad-2" {
		t.Fatalf("parked: %+v, %v", parked, err)
	}
	mended.Store(true)
	if err := d.table.Resume(t.Context(), d.DB, parked[0].Row, parked[0].EventID); err != nil {
		t.Fatal(err)
	}
	s.waitFor(t, o.size)
	eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
	stop()
	t.Logf("%d duplicates", o.check(t, s.snapshot()))
}

// While the topic takes nothing, what was read is put into the table, and the rest stays in the log.
func TestEmitTopicTakesNothing(t *testing.T) {
	d := emitting(t)
	o, s := newOracle(), newSink()
	relay, stop := d.start(t, s, d.quick())
	tailing(t, relay)
	s.setFail(func(context.Context, string, []framework.Record) error { return errAway })
	for n := range 100 {
		d.emit(t, event("a", n), event(fmt.Sprint("key", n), n))
		o.commit(event("a", n), event(fmt.Sprint("key", n), n))
	}
	eventually(t, "the topic has been tried a few times", func() bool { return relay.Stats().Retries >= 10 })
	s.setFail(nil)
	s.waitFor(t, o.size)
	tailing(t, relay)
	eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
	stop()
	t.Logf("%d duplicates", o.check(t, s.snapshot()))
}

// A slot that is lost may have had events that are nowhere else: that is an error, also with PollWithoutLog, until an
// operator has taken note of it.
func TestEmitSlotIsLost(t *testing.T) {
	d := emitting(t)
	s := newSink()
	config := d.quick()
	config.PollWithoutLog = true
	relay, stop := d.start(t, s, config)
	tailing(t, relay)
	stop()
	d.emit(t, event("lost", 1))
	d.dropSlot(t)
	strict, err := outbox.NewRelay(d.table, d.DB, s, config)
	if err != nil {
		t.Fatal(err)
	}
	if err := strict.Run(t.Context()); !errors.Is(err, outbox.ErrEventsLost) || !strings.Contains(err.Error(), "DROP PUBLICATION") {
		t.Errorf("Run has ended with: %v", err)
	}
	if err := d.log.Drop(t.Context()); err != nil {
		t.Fatal(err)
	}
	relay, err = outbox.NewRelay(d.table, d.DB, s, config)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- relay.Run(t.Context()) }()
	tailing(t, relay)
	d.emit(t, event("kept", 1))
	s.waitFor(t, 1)
	eventually(t, "the slot is dropped while it is read", func() bool {
		_, err := d.Exec("SELECT pg_terminate_backend(active_pid), pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", d.slot())
		return err == nil
	})
	if err := <-ended; !errors.Is(err, outbox.ErrEventsLost) {
		t.Errorf("Run has ended with: %v", err)
	}
}

func TestEmitChecks(t *testing.T) {
	d := open(t, sqltest.Postgres(t))
	if err := d.log.Emitter(nil).Publish(t.Context(), "events", event("k", 1)); err == nil || !strings.Contains(err.Error(), "Messages") {
		t.Errorf("without Messages: %v", err)
	}
	if err := emitting(t).log.Emitter(nil).Publish(t.Context(), "", event("k", 1)); err == nil || !strings.Contains(err.Error(), "topic is empty") {
		t.Errorf("without a topic: %v", err)
	}
}
