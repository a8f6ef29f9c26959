package outbox

import (
	"testing"
	"time"

	"github.com/millrace/millrace/internal/testenv/sqltest"
)

// A slot that is given up and taken again in one tick, because the relay that it was for has gone, is served again.
func TestSlotsComeBack(t *testing.T) {
	sqltest.Each(t, func(t *testing.T, d sqltest.Database) {
		table, err := NewTable(d.Dialect, Config{Name: d.Name})
		if err != nil {
			t.Fatal(err)
		}
		if err := table.Create(t.Context(), d.DB); err != nil {
			t.Fatal(err)
		}
		first, second := newLease(table, d.DB, "first", time.Minute), newLease(table, d.DB, "second", time.Minute)
		for _, l := range []*lease{first, second, first} {
			if err := l.tick(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		_, leaving, _ := first.held()
		if len(leaving) != Slots/2 {
			t.Fatalf("%d slots are leaving", len(leaving))
		}
		for _, slot := range leaving {
			first.giveUp(slot)
		}
		if err := second.end(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := first.tick(t.Context()); err != nil {
			t.Fatal(err)
		}
		if serves, leaving, _ := first.held(); len(serves) != Slots || len(leaving) > 0 {
			t.Errorf("the only relay serves %d slots, %d are leaving", len(serves), len(leaving))
		}
	})
}
