package framework_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
)

// A process comes back that is ahead of the group in one topic and behind it in the other. What it has of the first, with
// what the group has had of the other, nobody has sent: the group must not hear of the first before the process is past it
// in the other too, or the next one would take all of that for sent.
func TestAheadInOneTopicAndBehindInAnother(t *testing.T) {
	const before, n = 10, 60
	b := framework.NewBroker()
	for _, topic := range []string{"left", "right", "paired"} {
		b.Create(topic, 1)
	}
	lefts := thingRecords(n, 5, time.Second)
	rights := thingRecords(n, 5, time.Second)
	for i := range rights {
		rights[i].ID = "right-" + rights[i].ID
	}
	var waits atomic.Bool
	reached, goOn := make(chan struct{}), make(chan struct{})
	pipeline := func() *framework.Pipeline {
		p := framework.NewPipeline("shared")
		from := func(topic string) *framework.Stream[thing] {
			return framework.From(p, topic, framework.Source[thing]{OutOfOrder: time.Hour})
		}
		right := processors.Peek(from("right"), "wait", func(e *framework.Event[thing]) {
			if e.Data.N == before+1 && waits.CompareAndSwap(true, false) {
				close(reached)
				<-goOn
			}
		})
		number := func(v thing) string { return fmt.Sprint(v.N) }
		framework.To(processors.Join(from("left"), right, "pairs", processors.On(number, number), processors.Window{Within: time.Hour},
			func(a, _ *framework.Event[thing]) (thing, error) { return a.Data, nil }), "paired")
		return p
	}

	// It dies when it has more of the left topic than the group has heard of.
	b.Append("left", lefts[:before]...)
	b.Append("right", rights[:before]...)
	store := openStore(t, t.TempDir())
	a := start(t, b, store, pipeline())
	left, all := 0, make(chan struct{})
	a.states.onCommit = func(i framework.CommitInfo) {
		if i.Topic != "left" {
			return
		}
		if left += i.Events; left == n {
			close(all)
		}
	}
	a.assignAll()
	awaitAll(t, b, "left", "right")
	a.member.Kill()
	b.Append("left", lefts[before:]...)
	<-all
	a.kill()

	// Another one has had the right topic, and sent nothing, for it had none of the partners yet.
	b.Append("right", rights[before:]...)
	b.Mark("right", 0, n)

	// The first one comes back, and has to give the partition away when it has processed a part of that.
	waits.Store(true)
	again := start(t, b, store, pipeline(), func(c *framework.Config) { c.BatchEvents, c.Lanes = 1, 1 })
	again.assignAll()
	<-reached
	revoked := make(chan struct{})
	go func() {
		defer close(revoked)
		again.member.Revoke(t.Context(), 0, 0)
	}()
	for again.member.Reads(0, 0) {
		time.Sleep(time.Millisecond)
	}
	close(goOn)
	<-revoked
	if at, _ := b.Marked("left", 0); at != before {
		t.Errorf("the group is at %d of the left topic, want %d: what is behind it in the other has not been sent", at, before)
	}
	again.end()

	next := start(t, b, openStore(t, t.TempDir()), pipeline())
	next.assignAll()
	awaitAll(t, b, "left", "right")
	next.end()
	checkPairs(t, b, n)
}
