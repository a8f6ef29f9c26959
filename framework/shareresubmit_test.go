package framework_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
)

// checked is a pipeline that passes things on, and those whose number ends with 3 only when they are not broken.
func checked(broken *atomic.Bool) *framework.Pipeline {
	p := framework.NewPipeline("shared")
	framework.To(processors.Map(framework.From[thing](p, "left"), "check", func(e *framework.Event[thing]) (thing, error) {
		if broken.Load() && e.Data.N%10 == 3 {
			return thing{}, errors.New("broken")
		}
		return e.Data, nil
	}), "paired")
	return p
}

// faultsIn returns the faults of a dead-letter topic, each once.
func faultsIn(t *testing.T, b *framework.Broker, topic string) []framework.Fault {
	t.Helper()
	return lettersOf(t, b.Records(topic))
}

// countIDs tells how many records a topic has, and how many ids.
func countIDs(b *framework.Broker, topic string) (records, ids int) {
	seen := map[string]bool{}
	for _, r := range b.Records(topic) {
		seen[r.ID] = true
		records++
	}
	return records, len(seen)
}

// resubmit asks until nothing is refused: a process's publisher refuses every fourth call.
func resubmit(t *testing.T, r *framework.Runner, faults ...framework.Fault) {
	t.Helper()
	err := r.Resubmit(t.Context(), faults...)
	for errors.Is(err, errRefused) {
		err = r.Resubmit(t.Context(), faults...)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// logged collects what is logged.
type logged struct {
	sync.Mutex
	strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.Lock()
	defer l.Unlock()
	return l.Builder.Write(p)
}

func (l *logged) String() string { // Watermill's router may still say at debug level that it has ended
	l.Lock()
	defer l.Unlock()
	return l.Builder.String()
}

const resubmitted = "shared.left.resubmit"

// Whoever is asked to resubmit, the process that has the partition does it, once for each call; nobody does it again
// when the partition moves.
func TestResubmitWherePartitionsAreShared(t *testing.T) {
	const n = 100
	b := sharedBroker(n)
	b.Create("shared.faults", 2)
	var broken atomic.Bool
	broken.Store(true)
	a := start(t, b, openStore(t, t.TempDir()), checked(&broken))
	c := start(t, b, openStore(t, t.TempDir()), checked(&broken)) // has no partition
	a.assignAll()
	awaitAll(t, b, "left")
	faults := faultsIn(t, b, "shared.faults")
	if len(faults) != n/10 {
		t.Fatalf("%d faults", len(faults))
	}
	broken.Store(false)
	resubmit(t, c.runner, faults...)
	awaitAll(t, b, "left", resubmitted)
	if records, ids := countIDs(b, "paired"); records != n || ids != n {
		t.Errorf("%d outputs with %d ids, want %d", records, ids, n)
	}

	idle, err := framework.New(framework.Config{Store: openStore(t, t.TempDir()), Transport: b.Join()}, checked(&broken))
	if err != nil {
		t.Fatal(err)
	}
	if err := idle.Resubmit(t.Context(), faults[0]); err != nil { // by a Runner that does not run: once more
		t.Fatal(err)
	}
	awaitAll(t, b, "left", resubmitted)
	if records, ids := countIDs(b, "paired"); records != n+1 || ids != n {
		t.Errorf("%d outputs with %d ids, want %d and %d", records, ids, n+1, n)
	}

	for p := range sharedPartitions { // what nobody has taken yet is the next owner's; what is done is not
		a.member.Revoke(t.Context(), 0, p)
	}
	resubmit(t, a.runner, faults[1])
	c.assignAll()
	awaitAll(t, b, "left", resubmitted)
	if records, ids := countIDs(b, "paired"); records != n+2 || ids != n {
		t.Errorf("%d outputs with %d ids, want %d and %d", records, ids, n+2, n)
	}
	for p := range sharedPartitions { // and back, to where a part of it was done
		c.member.Revoke(t.Context(), 0, p)
	}
	a.assignAll()
	b.Append("left", thingRecords(n+50, 50, time.Second)[n:]...)
	awaitAll(t, b, "left", resubmitted)
	if records, ids := countIDs(b, "paired"); records != n+52 || ids != n+50 {
		t.Errorf("%d outputs with %d ids, want %d and %d", records, ids, n+52, n+50)
	}
	a.end()
	c.end()
}

// What is resubmitted and cannot be, and what somebody else writes into the topic, harms nobody.
func TestResubmissionsThatAreNone(t *testing.T) {
	const n = 20
	b := sharedBroker(n)
	b.Create("shared.faults", 1)
	var broken atomic.Bool
	broken.Store(true)
	log := new(logged)
	a := start(t, b, openStore(t, t.TempDir()), checked(&broken), func(c *framework.Config) { c.Logger = slog.New(slog.NewTextHandler(log, nil)) })
	a.assignAll()
	awaitAll(t, b, "left")
	b.Append(resubmitted, framework.Record{ID: "no json", Key: "0", Value: []byte("hello")},
		framework.Record{ID: "unreadable", Key: "0", Err: framework.Permanent(errors.New("headers"))})
	gone := faultsIn(t, b, "shared.faults")[0]
	gone.Topic = "was"
	if err := a.runner.Resubmit(t.Context(), gone); err == nil || !strings.Contains(err.Error(), `topic "was"`) {
		t.Errorf("a topic that is not read: %v", err)
	}
	gone.Topic, gone.Partition = "left", sharedPartitions
	if err := a.runner.Resubmit(t.Context(), gone); err == nil || !strings.Contains(err.Error(), fmt.Sprint("partition ", sharedPartitions)) {
		t.Errorf("a partition that is not there: %v", err)
	}
	broken.Store(false)
	resubmit(t, a.runner, faultsIn(t, b, "shared.faults")...)
	awaitAll(t, b, "left", resubmitted)
	if records, ids := countIDs(b, "paired"); records != n || ids != n {
		t.Errorf("%d outputs with %d ids, want %d", records, ids, n)
	}
	a.end()
	if told := strings.Count(log.String(), "resubmissions is none"); told != 2 {
		t.Errorf("%d records are said to be none, want 2", told)
	}
	a.member.Refuse = func(context.Context) error { return errRefused }
	err := a.runner.Resubmit(t.Context(), faultsIn(t, b, "shared.faults")[0])
	if !errors.Is(err, errRefused) || !strings.Contains(err.Error(), resubmitted) {
		t.Errorf("a transport that takes nothing: %v", err)
	}
}
