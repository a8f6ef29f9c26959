package pgtail_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
)

// From the first start on: what is in the table comes first, then what is committed, with all that belongs to it; the
// table is emptied and the slot moves on. After a stop it goes on where it was, without the table.
func TestTail(t *testing.T) {
	d := open(t, sqltest.Postgres(t))
	o, s := newOracle(), newSink()
	put := func(records ...framework.Record) { d.write(t, records...); o.commit(records...) }
	for n := range 50 {
		put(event("a", n), event("b", n))
	}
	config := d.quick()
	config.Sequence = true
	relay, stop := d.start(t, s, config)
	tailing(t, relay)
	for n := 50; n < 60; n++ {
		put(event("a", n), event("b", n))
	}
	full := framework.Record{
		ID: "full", Type: "placed", Source: "shop", Key: "\x00\xffkey", Time: time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC),
		Metadata: map[string]string{"trace": "ü"}, Value: []byte{0, 1, 255}, Causes: "c", Step: "s",
	}
	put(full, framework.Record{ID: "tombstone", Key: "t"}, framework.Record{ID: "empty", Key: "e", Value: []byte{}})
	s.waitFor(t, o.size)
	eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
	d.slotMoves(t)
	stop()
	put(event("a", 60), event("a", 61))
	relay, stop = d.start(t, s, config)
	s.waitFor(t, o.size)
	tailing(t, relay)
	stop()
	if err := relay.Stats().Err; err != nil {
		t.Error(err)
	}
	all := s.snapshot()
	if duplicates := o.check(t, all); duplicates > 0 {
		t.Errorf("%d duplicates", duplicates)
	}
	for _, r := range all {
		sequence := r.Metadata[outbox.MetadataSequence]
		delete(r.Metadata, outbox.MetadataSequence)
		switch {
		case len(sequence) != 19:
			t.Errorf("%s: sequence %q", r.ID, sequence)
		case r.ID == "full" && (r.Type != full.Type || r.Source != full.Source || r.Key != full.Key || !r.Time.Equal(full.Time) ||
			len(r.Metadata) != 1 || r.Metadata["trace"] != "ü" || string(r.Value) != string(full.Value) || r.Causes != "c" || r.Step != "s"):
			t.Errorf("it came as %+v", r)
		case r.ID == "tombstone" && r.Value != nil, r.ID == "empty" && (r.Value == nil || len(r.Value) > 0):
			t.Errorf("%s has the value %#v", r.ID, r.Value)
		}
	}
}

// Where the writers of a key do not wait for each other, the order is that of the commits, and not of the ids; also when
// the relay was down meanwhile. Fault 4: other keys do not wait for a transaction that is late.
func TestOrderOfCommits(t *testing.T) {
	d := open(t, sqltest.Postgres(t))
	o, s := newOracle(), newSink()
	relay, stop := d.start(t, s, d.quick())
	tailing(t, relay)
	begin := func(records ...framework.Record) (commit func()) {
		tx, err := d.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.publish(tx, records...); err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			o.commit(records...)
		}
	}
	round := func(n int) {
		late := begin(event("k", n), event("late", n))
		begin(event("k", n+1))()
		begin(event("k", n+2), event("other", n))()
		late()
	}
	late := begin(event("k", 0), event("late", 0))
	begin(event("k", 1), event("other", 0))()
	s.waitFor(t, 2) // while the other transaction is open
	late()
	round(10)
	s.waitFor(t, o.size)
	stop()
	round(20)
	_, stop = d.start(t, s, d.quick())
	s.waitFor(t, o.size)
	round(30)
	for n, statement := range []string{"PREPARE TRANSACTION '" + d.Name + "'", "COMMIT PREPARED '" + d.Name + "'"} { // in two steps
		if n == 0 {
			statement = fmt.Sprintf("BEGIN; INSERT INTO %s (topic, event_key, event_id) VALUES ('events', 'k', 'prepared'); %s", d.Name, statement)
		}
		d.exec(t, statement)
		if n == 0 {
			d.write(t, event("k", 40))
			o.commit(event("k", 40))
		}
	}
	o.commit(framework.Record{ID: "prepared", Key: "k"})
	s.waitFor(t, o.size)
	stop()
	for _, r := range s.snapshot() {
		if number := r.Metadata[outbox.MetadataSequence]; number != "" { // within a key it would fall
			t.Errorf("%s has the number %s", r.ID, number)
		}
	}
	if duplicates := o.check(t, s.snapshot()); duplicates > 0 {
		t.Errorf("%d duplicates", duplicates)
	}
}

// In the order of the commits ids fall, where writers of a key do not wait for each other: whoever takes the highest number of
// a key for a mark of what it has handled would lose events. So there are no numbers, also while the table is read, unless
// the relay is told that writers wait.
func TestNumbersWhereTheLogIsRead(t *testing.T) {
	for _, test := range []struct {
		name             string
		sequence, locked bool
	}{{"not told", false, false}, {"Sequence", true, false}, {"SerializeKeys", false, true}} {
		t.Run(test.name, func(t *testing.T) {
			d, s := open(t, sqltest.Postgres(t)), newSink()
			table, err := outbox.NewTable(outbox.Postgres, outbox.Config{Name: d.Name, SerializeKeys: test.locked})
			if err != nil {
				t.Fatal(err)
			}
			d.table = table
			config := d.quick()
			config.Sequence = test.sequence
			d.write(t, event("k", 0)) // found in the table
			relay, stop := d.start(t, s, config)
			tailing(t, relay)
			d.write(t, event("k", 1))
			s.waitFor(t, 2)
			stop()
			last := ""
			for _, r := range s.snapshot() {
				number, there := r.Metadata[outbox.MetadataSequence]
				if there != (test.sequence || test.locked) || there && number <= last {
					t.Errorf("%s has the number %q, after %q", r.ID, number, last)
				}
				last = number
			}
		})
	}
}

// writesFirst is a log of which the slot is made a moment after something was written.
type writesFirst struct {
	outbox.Log
	write func()
}

func (w writesFirst) Create(ctx context.Context) error {
	w.write()
	return w.Log.Create(ctx)
}

// What is committed after the table was read for the first time, and before the slot is there, is not in the log. It is
// sent at its turn, and not only when rows are found that the log does not show.
func TestCommitsBeforeTheSlot(t *testing.T) {
	d := open(t, sqltest.Postgres(t))
	o, s := newOracle(), newSink()
	put := func(r framework.Record) { d.write(t, r); o.commit(r) }
	config := d.quick()
	config.Log = writesFirst{d.log, func() { put(event("k", 1)) }}
	config.PollMin, config.PollMax, config.FullScan = time.Hour, time.Hour, time.Hour // no look finds it by chance
	relay, stop := d.start(t, s, config)
	tailing(t, relay)
	put(event("k", 2))
	s.waitFor(t, 2)
	stop()
	o.check(t, s.snapshot())
	if err := relay.Stats().Err; err != nil {
		t.Error(err)
	}
}

// What was sent is kept where the log is read as where it is polled, once.
func TestKeepSentWithLog(t *testing.T) {
	d := open(t, sqltest.Postgres(t))
	table, err := outbox.NewTable(outbox.Postgres, outbox.Config{Name: d.Name, KeepSent: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	d.table = table
	o, s := newOracle(), newSink()
	put := func(from, to int) {
		for n := from; n < to; n++ {
			d.write(t, event("a", n), event("b", n))
			o.commit(event("a", n), event("b", n))
		}
	}
	put(0, 20) // polled, before there is a slot
	relay, stop := d.start(t, s, d.quick())
	tailing(t, relay)
	put(20, 60)
	s.waitFor(t, o.size)
	eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
	tailing(t, relay)
	stop()
	if n, distinct := d.Count(t, d.Name+"_sent"), d.Count(t, "(SELECT DISTINCT event_id FROM "+d.Name+"_sent) d"); n != o.size || distinct != n {
		t.Errorf("%d rows of %d events are kept, of %d", n, distinct, o.size)
	}
	o.check(t, s.snapshot())
}
