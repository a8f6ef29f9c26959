package framework_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
)

// aligned runs a stage of two sources with an event a second; it tells of each event. Batches of b have a gate, and a begins
// after b, since nobody knows before whether b has anything.
func aligned(t *testing.T, gate chan struct{}, saw func(topic string, n int)) {
	t.Helper()
	const events = 200
	feed := framework.NewFeed(map[string][][]framework.Record{"a": {nil}, "b": {nil}})
	for i := range events {
		for _, topic := range []string{"a", "b"} {
			feed.Push(topic, 0, framework.Record{
				ID: fmt.Sprint(topic, i), Key: fmt.Sprint(i), Time: noon.Add(time.Duration(i) * time.Second), Value: fmt.Appendf(nil, `{"n":%d}`, i),
			})
		}
	}
	feed.Bounded, feed.Gates = true, map[string]chan struct{}{"a": make(chan struct{}), "b": gate}
	var begin sync.Once
	p := framework.NewPipeline("p")
	see := func(topic string) *framework.Stream[thing] {
		return processors.Filter(framework.From[thing](p, topic), "see-"+topic, func(e *framework.Event[thing]) bool {
			if topic == "b" {
				begin.Do(func() { close(feed.Gates["a"]) })
			}
			saw(topic, e.Data.N)
			return true
		})
	}
	meet := processors.Join(see("a"), see("b"), "meet",
		processors.On(func(x thing) string { return fmt.Sprint(x.N) }, func(x thing) string { return fmt.Sprint(x.N) }),
		processors.Window{Within: time.Hour},
		func(a, _ *framework.Event[thing]) (thing, error) { return a.Data, nil })
	framework.To(meet, "out")
	store, err := microstore.Open(microstore.Config{InMemory: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	sink := &framework.TestSink{}
	runner, err := framework.New(framework.Config{
		Store: store, Transport: topicsIn(t, store), Routes: map[string]framework.Transport{"a": feed, "b": feed, "out": sink}, BatchEvents: 10, Lanes: 1,
	}, p)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := runner.Run(ctx); err != nil || ctx.Err() != nil {
		t.Fatal(err, ctx.Err())
	}
	if n := len(sink.Records()); n != events {
		t.Errorf("%d of %d events met", n, events)
	}
}

// A source that could run ahead waits for one that is behind and has more to read.
func TestSourcesGoTogether(t *testing.T) {
	gate := make(chan struct{})
	done := make(chan struct{})
	defer close(done)
	go func() { // as slow as a disk: time enough for the other to run away
		for {
			select {
			case gate <- struct{}{}:
				time.Sleep(2 * time.Millisecond)
			case <-done:
				return
			}
		}
	}()
	var lock sync.Mutex
	lastA, lastB, ahead := 0, 0, 0
	aligned(t, gate, func(topic string, n int) {
		lock.Lock()
		defer lock.Unlock()
		if topic == "b" {
			lastB = n
		} else {
			lastA = n
		}
		ahead = max(ahead, lastA-lastB)
	})
	if ahead > 20 { // batches are of ten
		t.Errorf("one source was %d events ahead of the other", ahead)
	}
}

// A source that never comes, though it has more, does not hold up the others for good.
func TestSourceIsWaitedForInVain(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{}, 100)
	gate <- struct{}{} // the first batch, which says that there is more
	var lock sync.Mutex
	aligned(t, gate, func(topic string, n int) {
		lock.Lock()
		defer lock.Unlock()
		if topic == "a" && n == 199 { // only then may the other come on
			for range 99 {
				select {
				case gate <- struct{}{}:
				default:
				}
			}
		}
	})
}
