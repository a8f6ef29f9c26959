package framework_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
)

const (
	refusedEvents = 400
	refusedLimit  = 100
)

// tooLarge tells which of the events are larger than the sink takes: some alone, and some next to each other.
func tooLarge(i int) bool { return i%29 == 3 || i >= 200 && i < 220 }

func someTooLarge() (records []framework.Record, fit, not []string) {
	records = thingRecords(refusedEvents, 10, time.Second)
	for i := range records {
		if tooLarge(i) {
			records[i].Value = fmt.Appendf(nil, `{"n":%d,"pad":"<%s>"}`, i, strings.Repeat("x", 20*refusedLimit))
			not = append(not, records[i].ID)
		} else {
			fit = append(fit, records[i].ID)
		}
	}
	return records, fit, not
}

// lettersOf reads dead letters, each once by its id.
func lettersOf(t *testing.T, records []framework.Record) (all []framework.Fault) {
	t.Helper()
	seen := map[string]bool{}
	for _, r := range records {
		var f framework.Fault
		if err := json.Unmarshal(r.Value, &f); err != nil {
			t.Fatal(err)
		}
		if !seen[r.ID] {
			all = append(all, f)
		}
		seen[r.ID] = true
	}
	return all
}

// refusing is a bench whose sink does not take some of what is sent to it, and does not say so before.
type refusing struct {
	*bench
	pipeline  *framework.Pipeline
	out, dead *framework.TestSink // dead is nil where dead letters are in the store
	fit, not  []string
	sent      []framework.Record
}

func newRefusing(t *testing.T, deadInStore bool) *refusing {
	b := &refusing{bench: newBench(t, 0), pipeline: oneStep(nothing), out: &framework.TestSink{Limit: refusedLimit}}
	b.sent, b.fit, b.not = someTooLarge()
	b.feed = framework.NewFeed(map[string][][]framework.Record{"in": {b.sent}})
	b.feed.Bounded = true
	b.config.BatchEvents = 30
	b.config.Routes["in"], b.config.Routes["out"] = b.feed, b.out
	if !deadInStore {
		b.dead = &framework.TestSink{}
		b.config.Routes[b.pipeline.DeadLetters()] = b.dead
	}
	return b
}

func (b *refusing) letters(t *testing.T) []framework.Fault {
	t.Helper()
	if b.dead != nil {
		return lettersOf(t, b.dead.Records())
	}
	return lettersOf(t, readTopic(t, topicsIn(t, b.store), b.pipeline.DeadLetters()))
}

// check checks that each record is in the sink or, with its bytes, in the dead letters, and in order.
func (b *refusing) check(t *testing.T) {
	t.Helper()
	if got := firsts(ids(b.out.Records())); !slices.Equal(got, b.fit) {
		t.Errorf("the sink has %d records, want %d: %q", len(got), len(b.fit), got)
	}
	letters := b.letters(t)
	var got []string
	for _, f := range letters {
		got = append(got, f.Event.ID)
	}
	if !slices.Equal(got, b.not) {
		t.Errorf("dead letters of %q, want %q", got, b.not)
		return
	}
	for i, f := range letters {
		if f.Pipeline != "p" || f.Step != "out" || f.Topic != "out" || !f.Refused || f.Class != framework.ClassPermanent ||
			!strings.Contains(f.Error, framework.ErrTooLarge.Error()) {
			t.Fatalf("a dead letter: %+v", f)
		}
		n := slices.IndexFunc(b.sent, func(r framework.Record) bool { return r.ID == b.not[i] })
		r, err := f.Event.Record()
		if err != nil || string(r.Value) != string(b.sent[n].Value) || r.Key != b.sent[n].Key || !r.Time.Equal(b.sent[n].Time) {
			t.Fatalf("a dead letter holds %+v, %v; what was sent is %+v", r, err, b.sent[n])
		}
	}
	for _, name := range []string{"out", b.pipeline.DeadLetters()} {
		outbox, err := b.store.Outbox(name)
		if err != nil {
			t.Fatal(err)
		}
		if rows, _ := outbox.Backlog(); rows > 0 {
			t.Errorf("%d rows are left for %q", rows, name)
		}
	}
}

// firsts are the ids without those that come again.
func firsts(all []string) (once []string) {
	seen := map[string]bool{}
	for _, id := range all {
		if !seen[id] {
			once = append(once, id)
		}
		seen[id] = true
	}
	return once
}

func eachPlaceOfDeadLetters(t *testing.T, f func(*testing.T, bool)) {
	for _, inStore := range []bool{true, false} {
		t.Run(fmt.Sprint("in the store=", inStore), func(t *testing.T) { f(t, inStore) })
	}
}

// A record that its sink refuses for good after its commit is a dead letter with all that it was, and what comes after it is
// sent, in order; also what is refused while the run ends. It is not run again, but published when the sink takes it.
func TestRecordRefusedForGood(t *testing.T) {
	eachPlaceOfDeadLetters(t, func(t *testing.T, inStore bool) {
		b := newRefusing(t, inStore)
		committed, events := make(chan struct{}), 0
		var told atomic.Int64
		b.config.Hooks = []framework.Hook{commits(func(i framework.CommitInfo) {
			if events += i.Events; events == refusedEvents {
				close(committed)
			}
		}), faults(func(framework.Fault) { told.Add(1) })}
		b.out.Before = func(context.Context) error { <-committed; return nil } // so that the run is ending when it refuses
		if err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline))); err != nil {
			t.Fatal(err)
		}
		b.check(t)
		if int(told.Load()) != len(b.not) {
			t.Errorf("hooks were told of %d faults, want %d", told.Load(), len(b.not))
		}

		letters := b.letters(t)
		runner := b.runner(t, b.pipeline)
		if err := runner.Resubmit(t.Context(), letters...); err == nil || !strings.Contains(err.Error(), `topic "out" did not take`) {
			t.Errorf("resubmitting it: %v", err)
		}
		if err := runner.Discard(t.Context(), letters...); err != nil {
			t.Errorf("discarding it: %v", err)
		}
	})
}

type faults func(framework.Fault)

func (f faults) OnFault(fault framework.Fault) { f(fault) }

// Whatever fails while records are refused, each is sent or a dead letter with one id in the end, and nothing is left.
func TestRefusedForGoodFailsAtEachPoint(t *testing.T) {
	broken := errors.New("broken")
	points := []string{"release.before", "release.refused", "release.after", "release.forgotten", "store.commit.before", "store.commit.after"}
	eachPlaceOfDeadLetters(t, func(t *testing.T, inStore bool) {
		for _, point := range points {
			t.Run(point, func(t *testing.T) {
				b := newRefusing(t, inStore)
				dir := t.TempDir()
				open := func() {
					if err := b.store.Close(); err != nil && !errors.Is(err, broken) {
						t.Fatal(err)
					}
					store, err := microstore.Open(microstore.Config{Dir: dir, GCInterval: -1, MemoryBytes: 64 << 20})
					if err != nil {
						t.Fatal(err)
					}
					b.store, b.config.Store, b.config.Transport = store, store, topicsIn(t, store)
				}
				for failures := 0; ; failures++ {
					open() // a store that has failed takes no more
					var hits atomic.Int64
					disarm := failpoint.Arm(point, func() error {
						if hits.Add(1) == int64(1+failures*failures) && failures < 4 {
							return broken
						}
						return nil
					})
					err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline)))
					disarm()
					if err == nil {
						if failures == 0 {
							t.Error("it did not fail")
						}
						break
					}
					if !errors.Is(err, broken) {
						t.Fatal(err)
					}
				}
				b.check(t)
				if err := b.store.Close(); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
}

// A limit that was lowered while records waited in the outbox does not end every start.
func TestRefusedAfterTheNextStart(t *testing.T) {
	b := newRefusing(t, true)
	b.config.StopTimeout = 100 * time.Millisecond
	b.out.Before = func(context.Context) error { return errRefused }
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	events := 0
	b.config.Hooks = []framework.Hook{commits(func(i framework.CommitInfo) {
		if events += i.Events; events == refusedEvents {
			stop()
		}
	})}
	if err := soon(t, run(ctx, t, b.runner(t, b.pipeline))); !errors.Is(err, framework.ErrStopTimeout) {
		t.Fatal(err)
	}
	b.out.Before, b.config.Hooks, b.config.StopTimeout = nil, nil, 0
	if err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline))); err != nil {
		t.Fatal(err)
	}
	b.check(t)
}

// Where the dead letters do not take a refused record either, or where later outputs of the key would have to wait for it,
// the run ends and says so. The record is whole in the outbox, and is sent when it fits.
func TestRefusedAndNoDeadLetter(t *testing.T) {
	for name, change := range map[string]func(b *refusing){
		"dead letters that tell": func(b *refusing) {
			b.config.Routes[b.pipeline.DeadLetters()] = &narrow{most: refusedLimit}
		},
		"keys that park": func(b *refusing) { b.pipeline.Park(framework.Parking{}) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newRefusing(t, true)
			change(b)
			if err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline))); !errors.Is(err, framework.ErrTooLarge) {
				t.Fatalf("the run ends with %v", err)
			}
			b.out.Limit = 0
			if err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline))); err != nil {
				t.Fatal(err)
			}
			if got := firsts(ids(b.out.Records())); !slices.Equal(got, ids(b.sent)) {
				t.Errorf("the sink has %q", got)
			}
		})
	}
}

// A dead letter that holds what is nowhere else is not cut: it waits in its outbox until its topic takes it.
func TestRefusedIsNotCut(t *testing.T) {
	b := newRefusing(t, false)
	b.dead.Limit = 10 * refusedLimit // without its bytes it would fit
	if err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline))); !errors.Is(err, framework.ErrTooLarge) {
		t.Fatalf("the run ends with %v", err)
	}
	b.dead.Limit = 0
	if err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline))); err != nil {
		t.Fatal(err)
	}
	b.check(t)
}

// Where partitions are shared out, the group's position waits for the dead letter of a refused record: the next process
// makes it again when the first dies before the topic has it.
func TestRefusedIsNotMarked(t *testing.T) {
	const n = 20
	b := framework.NewBroker()
	for _, topic := range []string{"left", "paired", "shared.faults"} {
		b.Create(topic, 1)
	}
	pipeline := func() *framework.Pipeline {
		p := framework.NewPipeline("shared")
		framework.To(framework.From[thing](p, "left"), "paired")
		return p
	}
	large := func(topic string, r *framework.Record) bool { return topic == "paired" && r.ID == "e3" }
	first := start(t, b, openStore(t, t.TempDir()), pipeline())
	first.member.Refuse = nil
	first.member.TooLarge, first.member.Takes = large, func(topic string) bool { return topic != "shared.faults" }
	first.assignAll()
	records := thingRecords(n, 10, time.Second)
	for i := range records { // when one is sent, the commit of the one before is settled, as far as it will be
		b.Append("left", records[i])
		if i != 3 {
			awaitRecord(t, b, "paired", records[i].ID)
		}
	}
	if at, _ := b.Marked("left", 0); at > 3 {
		t.Errorf("the group is at %d, and the dead letter of 3 is nowhere but here", at)
	}
	first.kill()

	second := start(t, b, openStore(t, t.TempDir()), pipeline())
	second.member.TooLarge = large
	second.assignAll()
	awaitAll(t, b, "left")
	second.end()
	if got := faultsIn(t, b, "shared.faults"); len(got) != 1 || got[0].Event.ID != "e3" || !got[0].Refused {
		t.Errorf("dead letters: %+v", got)
	}
	if _, got := countIDs(b, "paired"); got != n-1 {
		t.Errorf("%d records were sent, want %d", got, n-1)
	}
}

func awaitRecord(t *testing.T, b *framework.Broker, topic, id string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !slices.Contains(ids(b.Records(topic)), id) {
		if time.Now().After(deadline) {
			t.Fatalf("record %q has not come", id)
		}
		time.Sleep(time.Millisecond)
	}
}

// The dead letter of an output says nothing of the event of a source that is at the same place and has its id.
func TestRefusedIsNoPastFault(t *testing.T) {
	b := framework.NewBroker()
	for _, topic := range []string{"left", "paired", "shared.faults"} {
		b.Create(topic, 1)
	}
	records := thingRecords(1, 1, time.Second)
	b.Append("left", records...)
	value, err := json.Marshal(framework.Fault{Pipeline: "shared", Step: "left", Topic: "left", Refused: true,
		Class: framework.ClassPermanent, Event: framework.FaultEvent{ID: records[0].ID}})
	if err != nil {
		t.Fatal(err)
	}
	b.Append("shared.faults", framework.Record{ID: "letter", Type: framework.FaultType, Value: value})
	p := framework.NewPipeline("shared")
	framework.To(processors.Filter(framework.From[thing](p, "left"), "all", func(*framework.Event[thing]) bool { return true }), "paired")
	a := start(t, b, openStore(t, t.TempDir()), p)
	a.assignAll()
	awaitAll(t, b, "left")
	a.end()
	if got := ids(b.Records("paired")); !slices.Equal(firsts(got), ids(records)) {
		t.Errorf("sent: %q", got)
	}
}
