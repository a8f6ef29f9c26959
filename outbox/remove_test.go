package outbox

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/sqldb"
	"github.com/millrace/millrace/internal/testenv/sqltest"
)

// failing is a database that has an error at a statement.
type failing struct {
	sqldb.Execer
	at, statements int
}

func (f *failing) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	if f.statements++; f.statements == f.at {
		return 0, errors.New("away")
	}
	return f.Execer.Exec(ctx, query, args...)
}

// Many rows, or large ones, that were sent are moved in several statements. What one has moved is not moved again after
// another's error.
func TestRemoveGoesOnAfterAnError(t *testing.T) {
	const atOnce, rowBytes = 200, keptBytes / 200
	d := sqltest.Postgres(t)
	table, err := NewTable(d.Dialect, Config{Name: d.Name, KeepSent: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Create(t.Context(), d.DB); err != nil {
		t.Fatal(err)
	}
	if err := table.Publisher(SQL(d.DB)).Publish(t.Context(), "events", make([]framework.Record, 2*atOnce+50)...); err != nil {
		t.Fatal(err)
	}
	sent := committed(t, d)
	tx := &failing{Execer: SQL(d.DB), at: 2}
	if err := table.remove(t.Context(), tx, sent, rowBytes); err == nil || d.Count(t, d.Name+"_sent") != atOnce {
		t.Errorf("%v, %d rows are kept", err, d.Count(t, d.Name+"_sent"))
	}
	if err := table.remove(t.Context(), tx, sent, rowBytes); err != nil || tx.statements != 5 {
		t.Errorf("%v, after %d statements", err, tx.statements)
	}
	if left, kept := d.Count(t, d.Name), d.Count(t, "(SELECT DISTINCT row_id FROM "+d.Name+"_sent) x"); left != 0 || kept != len(sent) || d.Count(t, d.Name+"_sent") != kept {
		t.Errorf("%d rows are left, %d kept of %d", left, kept, len(sent))
	}
}

// A server that dies may forget a row that was sent, and give its number to another event. That one is not deleted for it.
func TestRemoveLeavesAnotherEventUnderTheNumber(t *testing.T) {
	sqltest.Each(t, func(t *testing.T, d sqltest.Database) {
		if d.Dialect == SQLite {
			t.Skip("its numbers are not given twice")
		}
		configs := []Config{{Name: d.Name}}
		if d.Dialect == Postgres {
			configs = append(configs, Config{Name: d.Name + "_k", KeepSent: time.Hour})
		}
		for _, config := range configs {
			table, err := NewTable(d.Dialect, config)
			if err != nil {
				t.Fatal(err)
			}
			if err := table.Create(t.Context(), d.DB); err != nil {
				t.Fatal(err)
			}
			for id, event := range map[int]string{1: "new", 2: `sent "ü" \\ <&>`, 3: "waits"} {
				if _, err := d.ExecContext(t.Context(), table.sql("INSERT INTO NAME (id, topic, event_id) VALUES (?, 'events', ?)"), id, event); err != nil {
					t.Fatal(err)
				}
			}
			sent := []sentRow{{1, "lost"}, {2, `sent "ü" \\ <&>`}, {4, "waits"}}
			if err := table.remove(t.Context(), SQL(d.DB), sent, 1000); err != nil {
				t.Fatal(err)
			}
			var left string
			if err := d.QueryRow("SELECT MIN(event_id) FROM " + config.Name + " WHERE id = 1").Scan(&left); err != nil || left != "new" || d.Count(t, config.Name) != 2 {
				t.Errorf("%d rows are left, under the number 1 is %q: %v", d.Count(t, config.Name), left, err)
			}
		}
	})
}

// An event that was not taken and is gone leaves alone what is parked for another one that has come under its number.
func TestParkLeavesAnotherEventUnderTheNumber(t *testing.T) {
	sqltest.Each(t, func(t *testing.T, d sqltest.Database) {
		table, err := NewTable(d.Dialect, Config{Name: d.Name})
		if err != nil {
			t.Fatal(err)
		}
		if err := table.Create(t.Context(), d.DB); err != nil {
			t.Fatal(err)
		}
		r := &Relay{table: table, db: d.DB, config: RelayConfig{Name: "relay"}}
		l := newLease(table, d.DB, "relay", time.Minute)
		if err := l.tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := d.ExecContext(t.Context(), table.sql("INSERT INTO NAME (id, topic, event_id) VALUES (?, 'events', ?)"), 1, "new"); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			event          string
			attempts, want int
		}{{"gone", 1, 0}, {"new", 2, 2}, {"gone", 3, 2}, {"new", 4, 4}} {
			if err := r.park(t.Context(), l, &block{next: 1, eventID: step.event, attempts: step.attempts, err: errors.New("away")}); err != nil {
				t.Fatal(err)
			}
			parked, err := table.Parked(t.Context(), d.DB, 10)
			if err != nil || (len(parked) > 0) != (step.want > 0) || step.want > 0 && (parked[0].EventID != "new" || parked[0].Attempts != step.want) {
				t.Errorf("after %+v: %+v, %v", step, parked, err)
			}
		}
	})
}
