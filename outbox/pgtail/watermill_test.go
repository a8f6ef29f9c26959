package pgtail_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
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

// watermillTopic makes a topic of watermill-sql's, named as the outbox, and returns what writes there in a transaction: through
// Watermill's forwarder to the topic "events", or plainly.
func watermillTopic(t *testing.T, d database) (write func(forward bool, records ...framework.Record)) {
	t.Helper()
	schema := wsql.DefaultPostgreSQLSchema{}
	for _, q := range schema.SchemaInitializingQueries(d.Name) {
		d.exec(t, q.Query)
	}
	t.Cleanup(func() { d.exec(t, "DROP TABLE watermill_"+d.Name) })
	return func(forward bool, records ...framework.Record) {
		t.Helper()
		messages := make([]*message.Message, len(records))
		for i := range records {
			messages[i] = framework.ToMessage(&records[i])
		}
		if err := d.InTx(t.Context(), func(tx *sql.Tx) error {
			publisher, err := wsql.NewPublisher(tx, wsql.PublisherConfig{SchemaAdapter: schema}, watermill.NopLogger{})
			if err != nil {
				return err
			}
			if !forward {
				return publisher.Publish(d.Name, messages...)
			}
			return forwarder.NewPublisher(publisher, forwarder.PublisherConfig{ForwarderTopic: d.Name}).Publish("events", messages...)
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// withWatermill is the outbox with that topic.
func withWatermill(t *testing.T, d database) *outbox.Table {
	t.Helper()
	table, err := outbox.NewTable(outbox.Postgres, outbox.Config{Name: d.Name, Watermill: []outbox.WatermillTopic{{Topic: d.Name}}})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// Messages of watermill-sql's are moved into the table by the relay that reads the log, and it is from the log that they are
// sent: in the order in which they were written, with what is written into the table itself, while a key is parked, and over
// restarts. One that cannot be opened is a dead letter, and does not keep the slot where it is.
func TestWatermillWhereTheLogIsRead(t *testing.T) {
	d := open(t, sqltest.Postgres(t))
	write := watermillTopic(t, d)
	d.table = withWatermill(t, d)
	o, s := newOracle(), newSink()
	put := func(forward bool, records ...framework.Record) {
		write(forward, records...)
		if forward {
			o.commit(records...)
		}
	}
	s.setFail(func(_ context.Context, _ string, records []framework.Record) error {
		for _, r := range records {
			if r.Key == "poison" {
				return framework.Permanent(errors.New("refused"))
			}
		}
		return nil
	})
	put(true, event("poison", 0), event("a", 0))
	relay, stop := d.start(t, s, d.quick())
	tailing(t, relay)
	for n := 1; n <= 30; n++ {
		put(true, event("poison", n), event("a", n), event("b", n))
		d.write(t, event("ours", n))
		o.commit(event("ours", n))
		if n%10 == 0 {
			put(false, framework.Record{ID: fmt.Sprint("no envelope ", n), Value: []byte("{}")})
			stop()
			put(true, event("c", n))
			relay, stop = d.start(t, s, d.quick())
		}
	}
	s.waitFor(t, o.size-31)
	tailing(t, relay)
	eventually(t, "what is left is parked", func() bool {
		return d.count(t) == 31 && d.Count(t, "watermill_"+d.Name) == 0 && d.Count(t, d.Name+"_dead") == 3
	})
	d.slotMoves(t)
	s.setFail(nil)
	parked, err := d.table.Parked(t.Context(), d.DB, 10)
	if err != nil || len(parked) != 1 {
		t.Fatalf("%+v, %v", parked, err)
	}
	if err := d.table.Resume(t.Context(), d.DB, parked[0].Row, parked[0].EventID); err != nil {
		t.Fatal(err)
	}
	s.waitFor(t, o.size)
	tailing(t, relay)
	stop()
	if duplicates := o.check(t, s.snapshot()); duplicates > 0 {
		t.Errorf("%d duplicates", duplicates)
	}
}

// A relay that reads the log has all slots. Where it does not know of watermill-sql's topic, a relay that does tells so, and
// moves what waits when the other has gone.
func TestWatermillThatTheReaderDoesNotKnow(t *testing.T) {
	d := open(t, sqltest.Postgres(t))
	write := watermillTopic(t, d)
	o, s := newOracle(), newSink()
	reader, stop := d.start(t, s, d.quick())
	tailing(t, reader)
	d.table = withWatermill(t, d)
	config := d.quick()
	config.Log, config.Lease = nil, 500*time.Millisecond
	waits, _ := d.start(t, s, config)
	write(true, event("k", 1))
	o.commit(event("k", 1))
	eventually(t, "the relay that waits tells what is wrong", func() bool {
		err := waits.Stats().Err
		return err != nil && strings.Contains(err.Error(), "set Config.Watermill in the tables of all relays")
	})
	if all := s.snapshot(); len(all) > 0 {
		t.Errorf("%d events were sent", len(all))
	}
	stop()
	s.waitFor(t, o.size)
	o.check(t, s.snapshot())
}
