package framework_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
)

// How far a pipeline is behind is known for each partition, between its stages too, and while a step stands still.
func TestLag(t *testing.T) {
	const n = 20
	store := openStore(t, t.TempDir())
	topics := topicsIn(t, store)
	if err := topics.CreateTopic(t.Context(), "in", 2); err != nil {
		t.Fatal(err)
	}
	publisher, err := topics.Publisher(framework.PublisherConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := publisher.Publish(t.Context(), "in", thingRecords(n, 5, 0)); err != nil {
		t.Fatal(err)
	}
	stands, goOn, commit := make(chan struct{}, n), make(chan struct{}), make(chan framework.CommitInfo, 1000)
	p := framework.NewPipeline("p")
	again := processors.ReKey(framework.From[thing](p, "in"), "again", func(e *framework.Event[thing]) string { return e.Key })
	framework.To(processors.Peek(again, "slow", func(*framework.Event[thing]) { stands <- struct{}{}; <-goOn }), "out")
	r, err := framework.New(framework.Config{
		Store: store, Transport: topics, InternalPartitions: 1, BatchEvents: 4, IdleAfter: -1,
		Hooks: []framework.Hook{commits(func(c framework.CommitInfo) { commit <- c })},
	}, p)
	if err != nil {
		t.Fatal(err)
	}
	if all := r.Lag("p"); len(all) != 0 {
		t.Errorf("before Run: %+v", all)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := run(ctx, t, r)
	release := sync.OnceFunc(func() { close(goOn) })
	defer func() {
		release()
		stop()
		if err := soon(t, done); err != nil {
			t.Error(err)
		}
	}()
	next := func() framework.CommitInfo {
		t.Helper()
		select {
		case c := <-commit:
			return c
		case <-time.After(time.Minute):
			t.Fatalf("nothing is committed any more: %+v", r.Lag("p"))
			return framework.CommitInfo{}
		}
	}
	for taken := 0; taken < n; {
		if c := next(); c.Topic == "in" {
			taken += c.Events
		}
	}
	<-stands // so the next stage has begun
	at := map[string]framework.Lag{}
	for _, l := range r.Lag("p") {
		if l.Topic != "in" {
			at[l.Topic] = l
		} else if l.Position == 0 || l.Position != l.End || l.Behind() != 0 {
			t.Errorf("all of it is processed: %+v", l)
		}
	}
	_, held, _, err := topics.Held("p.again", 0, 0) // with the watermarks
	if l := at["p.again"]; err != nil || held < n || l.Position != 0 || l.End != held || l.Behind() != held {
		t.Errorf("nothing of it is processed: %+v, and the topic holds %d records, %v", l, held, err)
	}
	if all := r.Lag("p"); len(all) != 3 || len(r.Lag("another")) != 0 {
		t.Errorf("%+v", all)
	}
	release()
	behind := func() (n int64) {
		for _, l := range r.Lag("p") {
			n += l.Behind()
		}
		return n
	}
	for behind() > 0 {
		next()
	}
}
