package framework

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/microstore"
)

type order struct {
	ID     string `json:"id"`
	Amount int    `json:"amount"`
}

func openStore(t testing.TB, dir string) *microstore.Store {
	t.Helper()
	store, err := microstore.Open(microstore.Config{Dir: dir, GCInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

func orderRecords(n int) []Record {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	all := make([]Record, n)
	for i := range all {
		all[i] = Record{
			ID: fmt.Sprintf("o%d", i), Key: fmt.Sprintf("c%d", i%100), Offset: int64(i),
			Time:  start.Add(time.Duration(i) * time.Second),
			Value: fmt.Appendf(nil, `{"id":"o%d","amount":%d}`, i, i%10),
		}
	}
	return all
}

func TestRunPassesEventsThroughStages(t *testing.T) {
	for _, lanes := range []int{1, 4} {
		for _, batch := range []int{1, 7, 1000} {
			t.Run(fmt.Sprintf("lanes=%d,batch=%d", lanes, batch), func(t *testing.T) {
				store := openStore(t, t.TempDir())
				topics := &logs{store: store, parts: map[string]int{}}
				p := NewPipeline("p")
				in := From[order](p, "orders")
				kept := AddStep(in, Step{Name: "kept", Kind: "filter"}, func(_ *Step, next Next[order]) Next[order] {
					return func(s *Scope, e *Event[order]) error {
						switch {
						case e.Data.Amount == 3:
							return errors.New("three")
						case e.Data.Amount == 4:
							panic("four")
						case e.Data.Amount > 5:
							return nil
						}
						return next(s, e)
					}
				})
				again := AddReKey(kept, "by-amount", ReKey[order]{Key: func(e *Event[order]) string { return fmt.Sprint(e.Data.Amount) }})
				To(again, "out")
				r, err := New(Config{
					Store: store, Transport: topics, Lanes: lanes, BatchEvents: batch,
					Routes: map[string]Transport{"orders": &fed{records: map[string][]Record{"orders": orderRecords(1000)}}},
				}, p)
				if err != nil {
					t.Fatal(err)
				}
				if err := r.Run(context.Background()); err != nil {
					t.Fatal(err)
				}
				out, _, err := topics.read("out", 0, 0)
				if err != nil {
					t.Fatal(err)
				}
				if len(out) != 400 {
					t.Errorf("%d outputs, want 400", len(out))
				}
				faults, _, _ := topics.read("p.faults", 0, 0)
				if len(faults) != 200 {
					t.Errorf("%d faults, want 200", len(faults))
				}
				if c := r.Counts("p", "kept"); c.In != 800 || c.Out != 400 || c.Faults != 200 {
					t.Errorf("counts %+v", c)
				}
			})
		}
	}
}
