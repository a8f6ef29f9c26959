package frameworktest_test

import (
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
	"github.com/millrace/millrace/processors"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
		goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"))
}

type visit struct {
	Page string `json:"page"`
}

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// visits keeps an hour of each visitor's visits and tells of those that nothing followed for ten minutes.
func visits() *framework.Pipeline {
	p := framework.NewPipeline("visits")
	in := framework.From[visit](p, "visits")
	good := processors.Map(in, "good", func(e *framework.Event[visit]) (visit, error) {
		if e.Data.Page == "" {
			return visit{}, fmt.Errorf("no page")
		}
		return e.Data, nil
	})
	kept := processors.Collect(good, "kept", processors.CollectConfig{Retain: time.Hour})
	last := processors.Expire(kept, "last", 10*time.Minute,
		func(h framework.View[visit], e *framework.Event[visit]) (visit, bool, error) {
			return e.Data, h.At(h.Len()-1).ID() == e.ID(), nil
		})
	framework.To(last, "left")
	return p
}

func TestDriver(t *testing.T) {
	for _, batch := range []int{0, 1} {
		for _, lanes := range []int{1, 4} {
			t.Run(fmt.Sprintf("batch=%d,lanes=%d", batch, lanes), func(t *testing.T) { drive(t, batch, lanes) })
		}
	}
}

func drive(t *testing.T, batch, lanes int) {
	d := frameworktest.New(t, frameworktest.Config{BatchEvents: batch, Lanes: lanes}, visits())
	frameworktest.Send(d, "visits",
		framework.NewEvent("1", "ann", noon, visit{"a"}),
		framework.NewEvent("2", "ann", noon.Add(5*time.Minute), visit{"b"}),
		framework.NewEvent("3", "bob", noon.Add(6*time.Minute), visit{""}),
	)
	if got := frameworktest.Outputs[visit](d, "left"); len(got) != 0 {
		t.Fatalf("%d outputs before their time", len(got))
	}
	faults := d.Faults()
	if len(faults) != 1 || faults[0].Step != "good" || faults[0].Event.ID != "3" || faults[0].Error != "no page" {
		t.Fatalf("faults: %+v", faults)
	}
	d.Restart()
	history := frameworktest.History[visit](d, "kept", "ann")
	if len(history) != 2 || history[0].Data.Page != "a" || !history[1].Time.Equal(noon.Add(5*time.Minute)) {
		t.Fatalf("history: %+v", history)
	}
	if got := frameworktest.History[visit](d, "kept", "bob"); len(got) != 0 {
		t.Fatalf("a fault is in the history: %+v", got)
	}
	d.Advance(noon.Add(20 * time.Minute))
	got := frameworktest.Outputs[visit](d, "left")
	if len(got) != 1 || got[0].Data.Page != "b" || got[0].Key != "ann" {
		t.Fatalf("outputs: %+v", got)
	}
	if c := d.Counts("kept"); c.In != 2 || c.Faults != 0 {
		t.Errorf("counts: %+v", c)
	}
	d.End()
	if got := frameworktest.Outputs[visit](d, "left"); len(got) != 1 {
		t.Errorf("%d outputs at the end", len(got))
	}
}
