package framework_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
)

// While a task catches up nothing is sent, so a timer that fires then, and had not fired where the positions come from,
// would be lost: a source that has nothing to read meanwhile is not idle, however long that takes.
func TestNoSourceIsIdleWhileCatchingUp(t *testing.T) {
	b := framework.NewBroker()
	for _, topic := range []string{"left", "right", "alone"} {
		b.Create(topic, 1)
	}
	p := framework.NewPipeline("shared")
	number := func(v thing) string { return fmt.Sprint(v.N) }
	framework.To(processors.LeftJoin(framework.From[thing](p, "left"), framework.From[thing](p, "right"), "pairs",
		processors.On(number, number), processors.Window{Within: time.Hour},
		func(a, _ *framework.Event[thing]) (thing, error) { return a.Data, nil }), "alone")

	// The group has both records: it was at noon then, for the left one holds event time back.
	records := thingRecords(2, 1, 5*time.Hour)
	b.Append("left", records[0])
	b.Mark("left", 0, 1)
	b.Mark("right", 0, 1)
	var looks atomic.Int64 // for idle sources
	a := start(t, b, openStore(t, t.TempDir()), p, func(c *framework.Config) {
		c.IdleAfter = 4 * time.Millisecond
		c.Now = func() time.Time {
			looks.Add(1)
			return time.Now()
		}
	})
	left := make(chan struct{}, 1)
	a.states.onCommit = func(i framework.CommitInfo) {
		if i.Topic == "left" && i.Events > 0 {
			left <- struct{}{}
		}
	}
	a.assignAll()
	<-left
	seen := looks.Load()
	awaitThat(t, "it has looked for idle sources", func() bool { return looks.Load() >= seen+50 })
	b.Append("right", records[1]) // it comes late
	awaitAll(t, b, "left", "right")
	awaitThat(t, "the one without partner is sent", func() bool { return len(b.Records("alone")) > 0 })
	a.end()
}
