package kafka_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
)

// How far a pipeline is behind is known from what is fetched, also while a step stands still.
func TestLag(t *testing.T) {
	const n = 100
	transport, _ := opened(t, 2)
	publish(t, transport, numbered(0, n)...)
	store, err := microstore.Open(microstore.Config{Dir: t.TempDir()})
	must(t, err)
	stands, goOn := make(chan struct{}, 2*n), make(chan struct{})
	p := framework.NewPipeline("lagging")
	framework.To(processors.Peek(framework.From[int](p, "events"), "slow", func(*framework.Event[int]) {
		stands <- struct{}{}
		<-goOn
	}), "out")
	runner, err := framework.New(framework.Config{
		Store: store, Transport: transport, IdleAfter: -1, Logger: slog.New(slog.DiscardHandler),
	}, p)
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- runner.Run(ctx) }()
	release := sync.OnceFunc(func() { close(goOn) })
	end := sync.OnceFunc(func() {
		release()
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	at := framework.Partition("k", 2)
	// The client fetches when it likes; nothing tells of it.
	await := func(what string, is func(fed, empty framework.Lag) bool) {
		t.Helper()
		for last := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			of := map[int]framework.Lag{}
			for _, l := range runner.Lag("lagging") {
				if l.Topic == "events" {
					of[l.Partition] = l
				}
			}
			if len(of) == 2 && is(of[at], of[1-at]) {
				return
			}
			if time.Now().After(last) {
				t.Fatalf("%s: it is told %+v", what, of)
			}
		}
	}
	<-stands
	await("nothing is processed", func(fed, empty framework.Lag) bool {
		return fed.Position == 0 && fed.End == n && fed.Behind() == n && empty.End == 0 && empty.Behind() == 0
	})
	publish(t, transport, numbered(n, n)...)
	await("more has come", func(fed, _ framework.Lag) bool { return fed.Position == 0 && fed.End == 2*n })
	release()
	await("all is processed", func(fed, _ framework.Lag) bool { return fed.Position == 2*n && fed.Behind() == 0 })
	end()
	if all := runner.Lag("lagging"); len(all) != 0 {
		t.Errorf("nothing is read any more: %+v", all)
	}
}
