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
	rows, err := d.Query("SELECT id FROM " + d.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var ids []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	tx := &failing{Execer: SQL(d.DB), at: 2}
	if err := table.remove(t.Context(), tx, ids, rowBytes); err == nil || d.Count(t, d.Name+"_sent") != atOnce {
		t.Errorf("%v, %d rows are kept", err, d.Count(t, d.Name+"_sent"))
	}
	if err := table.remove(t.Context(), tx, ids, rowBytes); err != nil || tx.statements != 5 {
		t.Errorf("%v, after %d statements", err, tx.statements)
	}
	if left, kept := d.Count(t, d.Name), d.Count(t, "(SELECT DISTINCT row_id FROM "+d.Name+"_sent) x"); left != 0 || kept != len(ids) || d.Count(t, d.Name+"_sent") != kept {
		t.Errorf("%d rows are left, %d kept of %d", left, kept, len(ids))
	}
}
