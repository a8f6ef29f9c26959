package outbox_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
)

// checkKept compares what is kept with what was committed: each event once.
func checkKept(t *testing.T, d database, o *oracle) {
	t.Helper()
	kept := query(t, d, "SELECT event_id FROM "+d.Name+"_sent")
	slices.Sort(kept)
	o.lock.Lock()
	committed := slices.Sorted(slices.Values(slices.Concat(slices.Collect(maps.Values(o.committed))...)))
	o.lock.Unlock()
	if !slices.Equal(kept, committed) {
		t.Errorf("kept are %s, committed %s", shorten(kept), shorten(committed))
	}
}

// query reads a column of texts.
func query(t *testing.T, d database, statement string) (all []string) {
	t.Helper()
	rows, err := d.Query(statement)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		all = append(all, text)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// What was sent is kept, all of it and once, whichever relay deletes it and whatever fails on the way; what was given up,
// and what still waits, is not.
func TestKeepSent(t *testing.T) {
	d := database{sqltest.Postgres(t)}
	table, o, s := d.table(t, outbox.Config{KeepSent: time.Hour}), newOracle(), newSink()
	for _, point := range []string{"outbox.delete.before", "outbox.delete.after"} {
		var hits atomic.Int64
		defer failpoint.Arm(point, func() error {
			if hits.Add(1)%3 == 1 {
				return errAway
			}
			return nil
		})()
	}
	s.setFail(func(_ context.Context, _ string, records []framework.Record) error {
		if slices.ContainsFunc(records, func(r framework.Record) bool { return r.ID == "poison" }) {
			return errPoison
		}
		return nil
	})
	d.write(t, table, "events", framework.Record{ID: "poison", Key: "p"})
	_, stopFirst := start(t, d, table, s, quick())
	_, stopSecond := start(t, d, table, s, quick())
	full := framework.Record{ID: "full", Type: "placed", Source: "shop", Key: "\x00\xff", Metadata: map[string]string{"note": "n"},
		Time: time.Date(2026, 11, 26, 5, 40, 0, 1, time.UTC), Value: []byte{0, 1, 0xff}}
	tombstone := framework.Record{ID: "tombstone", Key: "t"}
	d.write(t, table, "events", full, tombstone)
	o.commit(full, tombstone)
	var many []framework.Record // more than are moved at once
	for n := range 2100 {
		many = append(many, event("many", n))
	}
	d.write(t, table, "events", many...)
	o.commit(many...)
	writers(t, d, table, o, "w", 3, 60)()
	s.waitForDistinct(t, o.size())
	eventually(t, "all but the poison is deleted", func() bool { return d.count(t) == 1 })
	var parked []outbox.Parked
	eventually(t, "the poison is parked", func() (ok bool) {
		var err error
		if parked, err = table.Parked(t.Context(), d.DB, 10); err != nil {
			t.Fatal(err)
		}
		return len(parked) == 1
	})
	if err := table.DeadLetter(t.Context(), d.DB, parked[0].Row, parked[0].EventID); err != nil {
		t.Fatal(err)
	}
	stopFirst()
	stopSecond()
	checkKept(t, d, o)
	const asItWas = `topic = 'events' AND event_key = '\x00ff' AND event_type = 'placed' AND source = 'shop' AND metadata::json->>'note' = 'n'
 AND payload = '\x0001ff' AND event_time = '2026-11-26T05:40:00.000000001Z' AND slot BETWEEN 0 AND 15 AND row_id > 0 AND written_at <= sent_at`
	if found := query(t, d, "SELECT event_id FROM "+d.Name+"_sent WHERE event_id = 'full' AND "+asItWas); len(found) != 1 {
		t.Errorf("it is not kept as it was: %q", query(t, d, "SELECT s::text FROM "+d.Name+"_sent s WHERE event_id = 'full'"))
	}
	if found := query(t, d, "SELECT event_id FROM "+d.Name+"_sent WHERE event_id = 'tombstone' AND payload IS NULL"); len(found) != 1 {
		t.Error("the tombstone is not kept as one")
	}
}

// daysOf returns days by their distance from today. What is asked for changes at midnight, of UTC: the test is left out
// when that is near.
func daysOf(t *testing.T) func(n int) time.Time {
	t.Helper()
	today := time.Now().UTC().Truncate(24 * time.Hour)
	if time.Until(today.Add(24*time.Hour)) < 2*time.Minute {
		t.Skip("it is nearly midnight, and days are counted here: run it again in two minutes")
	}
	return func(n int) time.Time { return today.Add(time.Duration(n) * 24 * time.Hour) }
}

// sentPartition makes one of a day.
func (d database) sentPartition(t *testing.T, name string, from time.Time) {
	t.Helper()
	if _, err := d.Exec(fmt.Sprintf("CREATE TABLE %s_sent_%s PARTITION OF %[1]s_sent FOR VALUES FROM ('%[3]s') TO ('%s')", d.Name, name,
		from.Format(time.RFC3339), from.Add(24*time.Hour).Format(time.RFC3339))); err != nil {
		t.Fatal(err)
	}
}

// putSent puts an event where those are that were sent.
func (d database) putSent(t *testing.T, id string, at time.Time) {
	t.Helper()
	if _, err := d.Exec(fmt.Sprintf("INSERT INTO %s_sent (row_id, topic, event_id, written_at, sent_at) VALUES (1, 'events', '%s', '%[3]s', '%[3]s')",
		d.Name, id, at.Format(time.RFC3339Nano))); err != nil {
		t.Fatal(err)
	}
}

// Days that are older than KeepSent go, and partitions for those to come are there, however often and by however many it is
// asked for. Partitions that somebody else has made stay.
func TestPurgeSent(t *testing.T) {
	d := database{sqltest.Postgres(t)}
	table := d.table(t, outbox.Config{KeepSent: 48 * time.Hour})
	sent := d.Name + "_sent"
	days := daysOf(t)
	for _, n := range []int{-400, -4, -2} { // -3 lies in the rest
		d.sentPartition(t, days(n).Format("20060102"), days(n))
	}
	d.sentPartition(t, "mine_"+days(-500).Format("20060102"), days(-500))
	for _, n := range []int{-500, -400, -4, -3, -2, -1} {
		d.putSent(t, fmt.Sprint("day ", n), days(n).Add(12*time.Hour))
	}
	d.putSent(t, "just sent", time.Now())

	var purging sync.WaitGroup
	for range 3 {
		purging.Go(func() {
			if err := table.PurgeSent(t.Context(), d.DB); err != nil {
				t.Error(err)
			}
		})
	}
	purging.Wait()
	ids := query(t, d, "SELECT event_id FROM "+sent+" ORDER BY sent_at")
	if want := []string{"day -500", "day -2", "day -1", "just sent"}; !slices.Equal(ids, want) {
		t.Errorf("kept are %q, not %q", ids, want)
	}
	for n := 1; n <= 7; n++ {
		d.putSent(t, fmt.Sprint("day ", n), days(n+1).Add(-time.Microsecond))
		if in := query(t, d, fmt.Sprintf("SELECT tableoid::regclass::text FROM %s WHERE event_id = 'day %d'", sent, n)); len(in) != 1 || in[0] != sent+"_"+days(n).Format("20060102") {
			t.Errorf("day %d lies in %q", n, in)
		}
	}
	before := query(t, d, "SELECT event_id FROM "+sent+" ORDER BY sent_at")
	if err := table.PurgeSent(t.Context(), d.DB); err != nil {
		t.Error(err)
	}
	if after := query(t, d, "SELECT event_id FROM "+sent+" ORDER BY sent_at"); !slices.Equal(before, after) {
		t.Errorf("once more: %q, before %q", after, before)
	}
}

// Before the first relay there is a partition for today, too, and nothing comes to lie in the rest. What is in the way of
// one day is in that of no other: neither somebody's own partition, nor an old one that cannot be dropped.
func TestPurgeSentBeforeTheFirstRelay(t *testing.T) {
	d := database{sqltest.Postgres(t)}
	table := d.table(t, outbox.Config{KeepSent: 48 * time.Hour})
	sent, days := d.Name+"_sent", daysOf(t)
	if err := table.PurgeSent(t.Context(), d.DB); err != nil {
		t.Fatal(err)
	}
	s := newSink()
	d.write(t, table, "events", event("k", 1))
	_, stop := start(t, d, table, s, quick())
	eventually(t, "it is sent", func() bool { return d.count(t) == 0 })
	stop()
	if in := query(t, d, "SELECT tableoid::regclass::text FROM "+sent); len(in) != 1 || in[0] != sent+"_"+days(0).Format("20060102") {
		t.Fatalf("it lies in %q", in)
	}
	name := func(n int) string { return days(n).Format("20060102") }
	exec := func(statement string) {
		t.Helper()
		if _, err := d.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{0, 3, 4, 6} {
		exec("DROP TABLE " + sent + "_" + name(n))
	}
	for _, n := range []int{-4, -5, -6} {
		d.sentPartition(t, name(n), days(n))
	}
	d.sentPartition(t, "mine", days(3).Add(12*time.Hour))
	exec("CREATE VIEW " + sent + "_view AS SELECT event_id FROM " + sent + "_" + name(-5))
	d.putSent(t, "day -3", days(-3))
	err := table.PurgeSent(t.Context(), d.DB)
	if err == nil || !strings.Contains(err.Error(), "2BP01") || strings.Contains(err.Error(), "42P17") {
		t.Errorf("an old partition has a view: %v", err)
	}
	if n := d.Count(t, sent+"_rest"); n != 0 {
		t.Errorf("%d rows stay in the rest", n)
	}
	var want []string
	for _, n := range []int{-5, 0, 1, 2, 5, 6, 7} {
		want = append(want, sent+"_"+name(n))
	}
	want = append(want, sent+"_mine", sent+"_rest")
	if partitions := query(t, d, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '"+sent+"'::regclass ORDER BY 1"); !slices.Equal(partitions, want) {
		t.Errorf("partitions are %q, not %q", partitions, want)
	}
	exec("DROP VIEW " + sent + "_view")
	if err := table.PurgeSent(t.Context(), d.DB); err != nil {
		t.Error(err)
	}
}

// Whoever reads what was sent for long makes PurgeSent give up after one wait, so that relays do not wait behind it.
func TestPurgeSentWhileItIsRead(t *testing.T) {
	d := database{sqltest.Postgres(t)}
	table := d.table(t, outbox.Config{KeepSent: time.Hour})
	reader, err := d.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Rollback()
	var n int
	if err := reader.QueryRow("SELECT COUNT(*) FROM " + d.Name + "_sent").Scan(&n); err != nil {
		t.Fatal(err)
	}
	if err := table.PurgeSent(t.Context(), d.DB); err == nil || strings.Count(err.Error(), "55P03") != 1 || !strings.Contains(err.Error(), d.Name+"_sent") {
		t.Errorf("while it is read: %v", err)
	}
	if err := reader.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := table.PurgeSent(t.Context(), d.DB); err != nil {
		t.Error(err)
	}
	without := d.without(t, outbox.Config{})
	if err := without.PurgeSent(t.Context(), d.DB); err == nil || !strings.Contains(err.Error(), "KeepSent is not set") {
		t.Errorf("without KeepSent: %v", err)
	}
}

// Tables of the release before get what is new, and lose nothing.
func TestTablesOfVersion1(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table := d.table(t, outbox.Config{})
		d.write(t, table, "events", event("k", 1))
		statements := []string{"DELETE FROM " + d.Name + "_version WHERE version = 2"}
		if d.Dialect == outbox.Postgres {
			statements = append(statements, "DROP TABLE "+d.Name+"_sent")
		}
		for _, statement := range statements {
			if _, err := d.Exec(statement); err != nil {
				t.Fatal(err)
			}
		}
		if err := table.Check(t.Context(), d.DB); err == nil || !strings.Contains(err.Error(), "is of version 1") {
			t.Errorf("before Create: %v", err)
		}
		if err := table.Create(t.Context(), d.DB); err != nil {
			t.Fatal(err)
		}
		if d.Dialect == outbox.Postgres {
			table = d.without(t, outbox.Config{KeepSent: time.Hour})
		}
		s := newSink()
		_, stop := start(t, d, table, s, quick())
		s.waitForDistinct(t, 1)
		eventually(t, "it is deleted", func() bool { return d.count(t) == 0 })
		stop()
		if d.Dialect == outbox.Postgres {
			if kept := query(t, d, "SELECT event_id FROM "+d.Name+"_sent"); len(kept) != 1 {
				t.Errorf("kept are %q", kept)
			}
		}
	})
}
