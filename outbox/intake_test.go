package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/sqldb"
	"github.com/millrace/millrace/internal/testenv/sqltest"
)

// Two intakes that both take themselves for the only one, as when a lease was lost: nothing is moved twice, nothing is
// lost, and what is moved is in order.
func TestTwoIntakesAtTheSameTime(t *testing.T) {
	sqltest.Servers(t, twoIntakes)
}

func twoIntakes(t *testing.T, d sqltest.Database) {
	var schema wsql.SchemaAdapter = wsql.DefaultPostgreSQLSchema{}
	if d.Dialect == MySQL {
		schema = wsql.DefaultMySQLSchema{}
	}
	for _, q := range schema.SchemaInitializingQueries(d.Name) {
		if _, err := d.Exec(q.Query); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if _, err := d.Exec("DROP TABLE watermill_" + d.Name); err != nil {
			t.Error(err)
		}
	})
	table, err := NewTable(d.Dialect, Config{Name: d.Name, Watermill: []WatermillTopic{{Topic: d.Name, Plain: true, DefaultKey: "k"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Create(t.Context(), d.DB); err != nil {
		t.Fatal(err)
	}

	const total = 600
	var running sync.WaitGroup
	defer running.Wait()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var lock sync.Mutex
	met := 0
	for range 2 {
		relay, err := NewRelay(table, d.DB, nothing{}, RelayConfig{BatchRows: 7})
		if err != nil {
			t.Fatal(err)
		}
		l := newLease(table, d.DB, "both", time.Hour)
		l.epochs, l.until = map[int]int64{intakeSlot: 1}, time.Now().Add(time.Hour)
		intakes, err := relay.prepareIntakes(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			for ctx.Err() == nil {
				_, err := intakes[0].round(ctx)
				switch {
				case errors.Is(err, errMoved):
					lock.Lock()
					met++
					lock.Unlock()
				case err != nil && ctx.Err() == nil && sqldb.IsPermanent(err):
					t.Error(err)
					return
				}
			}
		})
	}
	for n := 0; n < total; n += 20 {
		if err := d.InTx(t.Context(), func(tx *sql.Tx) error {
			publisher, err := wsql.NewPublisher(tx, wsql.PublisherConfig{SchemaAdapter: schema}, watermill.NopLogger{})
			if err != nil {
				return err
			}
			var messages []*message.Message
			for i := n; i < n+20; i++ {
				messages = append(messages, message.NewMessage(fmt.Sprint(i), []byte("1")))
			}
			return publisher.Publish(d.Name, messages...)
		}); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(time.Minute); d.Count(t, "watermill_"+d.Name) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not all is moved within a minute")
		}
	}
	stop()
	running.Wait()
	rows, err := d.Query("SELECT event_id FROM " + d.Name + " ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	n := 0
	for ; rows.Next(); n++ {
		var id string
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		if id != fmt.Sprint(n) {
			t.Fatalf("at place %d is event %s", n, id)
		}
	}
	if err := rows.Err(); err != nil || n != total {
		t.Errorf("%d events, %v", n, err)
	}
	t.Logf("they met %d times", met)
}

// nothing is a publisher that takes nothing.
type nothing struct{}

func (nothing) Publish(context.Context, string, []framework.Record) error {
	return errors.New("takes nothing")
}
func (nothing) Close() error { return nil }
