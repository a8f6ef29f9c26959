package framework_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
)

// parkingRefusing is a bench of a pipeline that parks keys and whose sink does not take some of its outputs.
func parkingRefusing(t *testing.T) *refusing {
	b := newRefusing(t, inTheStore)
	b.pipeline.Park(framework.Parking{})
	return b
}

// byKey are the ids of the records of each key, each once, in order.
func byKey(records []framework.Record) map[string][]string {
	all, seen := map[string][]string{}, map[string]bool{}
	for _, r := range records {
		if !seen[r.ID] {
			all[r.Key] = append(all[r.Key], r.ID)
		}
		seen[r.ID] = true
	}
	return all
}

// upToRefused are the events that come before one of their key that is too large.
func upToRefused(sent []framework.Record) (before []framework.Record, held int) {
	stuck := map[string]bool{}
	for i, r := range sent {
		if stuck[r.Key] = stuck[r.Key] || tooLarge(i); !stuck[r.Key] {
			before = append(before, r)
		}
	}
	return before, len(sent) - len(before)
}

func checkKeys(t *testing.T, got, want []framework.Record) {
	t.Helper()
	g, w := byKey(got), byKey(want)
	for key := range w {
		if !slices.Equal(g[key], w[key]) {
			t.Errorf("key %q: sent %q, want %q", key, g[key], w[key])
		}
	}
	if len(g) > len(w) {
		t.Errorf("sent are keys %v", g)
	}
}

func heldKeys(t *testing.T, r *framework.Runner) (all []framework.HeldKey, records int) {
	t.Helper()
	if err := r.HeldBack(func(k framework.HeldKey) bool { all = append(all, k); records += k.Waiting; return true }); err != nil {
		t.Fatal(err)
	}
	return all, records
}

// Where keys are parked, an output that its sink refuses for good holds back those of its key, no others, and all are sent in
// order when the sink takes it, by the next start. A run that ends before says what to do.
func TestRefusedWhereKeysPark(t *testing.T) {
	b := parkingRefusing(t)
	before, held := upToRefused(b.sent)
	for range 2 {
		runner := b.runner(t, b.pipeline)
		err := soon(t, run(t.Context(), t, runner))
		if !errors.Is(err, framework.ErrTooLarge) || !strings.Contains(err.Error(), fmt.Sprint(held, " outputs are held back")) {
			t.Fatalf("the run ends with %v", err)
		}
		checkKeys(t, b.out.Records(), before)
		keys, n := heldKeys(t, runner)
		if n != held || keys[0].Topic != "out" || keys[0].Bytes < 20*refusedLimit || !slices.Contains(b.not, keys[0].Record) {
			t.Errorf("%d outputs are held back, want %d: %+v", n, held, keys)
		}
	}
	b.out.Limit = 0
	runner := b.runner(t, b.pipeline)
	if err := soon(t, run(t.Context(), t, runner)); err != nil {
		t.Fatal(err)
	}
	checkKeys(t, b.out.Records(), b.sent)
	if _, n := heldKeys(t, runner); n > 0 || len(b.letters(t)) > 0 {
		t.Errorf("%d outputs are still held back; dead letters: %+v", n, b.letters(t))
	}
	if got := len(b.out.Records()); got != len(b.sent) {
		t.Errorf("%d records were sent, want %d: nothing crashed", got, len(b.sent))
	}
}

// What is held back is sent as soon as the sink takes it, while the pipeline runs.
func TestHeldBackIsTriedAgain(t *testing.T) {
	b := parkingRefusing(t)
	b.feed.Bounded = false
	var large atomic.Bool
	limit := b.out.Limit
	before, _ := upToRefused(b.sent)
	b.out.Before = func(context.Context) error {
		if b.out.Limit = limit; large.Load() {
			b.out.Limit = 0
		}
		return nil
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := run(ctx, t, b.runner(t, b.pipeline))
	b.out.Await(len(before))
	large.Store(true)
	b.out.Await(len(b.sent))
	stop()
	if err := soon(t, done); err != nil {
		t.Fatal(err)
	}
	checkKeys(t, b.out.Records(), b.sent)
}

// A pipeline that parks no more makes dead letters of what its sink does not take of what was held back, and sends the rest.
func TestHeldBackIsGivenUp(t *testing.T) {
	b := parkingRefusing(t)
	if err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline))); !errors.Is(err, framework.ErrTooLarge) {
		t.Fatal(err)
	}
	b.pipeline = oneStep(nothing)
	if err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline))); err != nil {
		t.Fatal(err)
	}
	var fit []framework.Record
	for i, r := range b.sent {
		if !tooLarge(i) {
			fit = append(fit, r)
		}
	}
	checkKeys(t, b.out.Records(), fit)
	var got []string
	for _, f := range b.letters(t) {
		got = append(got, f.Event.ID)
	}
	slices.Sort(got)
	if want := slices.Sorted(slices.Values(b.not)); !slices.Equal(got, want) {
		t.Errorf("dead letters of %q, want %q", got, want)
	}
}

// An output without a key has no order to keep: it is a dead letter, also where keys are parked.
func TestRefusedWithoutKey(t *testing.T) {
	b := parkingRefusing(t)
	for i := range b.sent {
		b.sent[i].Key = ""
	}
	b.feed = framework.NewFeed(map[string][][]framework.Record{"in": {b.sent}})
	b.feed.Bounded = true
	b.config.Routes["in"] = b.feed
	if err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline))); err != nil {
		t.Fatal(err)
	}
	b.check(t)
}

// Whatever fails while outputs are held back and sent, each is sent in the end, a key's in order, and nothing is left.
func TestHeldBackFailsAtEachPoint(t *testing.T) {
	broken := errors.New("broken")
	for _, point := range []string{"release.before", "release.after", "release.forgotten", "release.released", "store.commit.before", "store.commit.after"} {
		t.Run(point, func(t *testing.T) {
			b := parkingRefusing(t)
			random := rand.New(rand.NewPCG(1, 0))
			b.out.Before = func(context.Context) error { // it takes large ones now and then
				if b.out.Limit = refusedLimit; random.IntN(3) == 0 {
					b.out.Limit = 0
				}
				return nil
			}
			dir, hit := t.TempDir(), false
			for failures := 0; ; failures++ {
				b.reopen(t, dir, broken)
				if failures >= 8 {
					b.out.Before, b.out.Limit = nil, 0
				}
				var hits atomic.Int64
				disarm := failpoint.Arm(point, func() error {
					if hits.Add(1) == int64(1+failures/3) && failures < 8 {
						hit = true
						return broken
					}
					return nil
				})
				err := soon(t, run(t.Context(), t, b.runner(t, b.pipeline)))
				disarm()
				if err == nil {
					break
				}
				if !errors.Is(err, broken) && !errors.Is(err, framework.ErrTooLarge) {
					t.Fatal(err)
				}
			}
			checkKeys(t, b.out.Records(), b.sent)
			if _, n := heldKeys(t, b.runner(t, b.pipeline)); n > 0 || !hit {
				t.Errorf("%d outputs are still held back; it has failed: %v", n, hit)
			}
			if err := b.store.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// When as much is held back as a backlog may have, intake waits, and goes on when there is room.
func TestHeldBackIsBounded(t *testing.T) {
	const limit = 20_000
	b := parkingRefusing(t)
	random := rand.NewChaCha8([32]byte{})
	for i := range b.sent {
		b.sent[i].Key = "k"
		noise := make([]byte, 1500)
		_, _ = random.Read(noise)
		b.sent[i].Value = fmt.Appendf(nil, `{"n":%d,"pad":"%x"}`, i, noise)
	}
	b.feed = framework.NewFeed(map[string][][]framework.Record{"in": {b.sent}})
	b.config.Routes["in"], b.config.OutboxBytes = b.feed, limit
	b.config.BatchEvents, b.config.Lanes = 3, 1
	var large atomic.Bool
	calls, long := 0, make(chan struct{})
	b.out.Before = func(context.Context) error {
		if calls++; calls == 2000 {
			close(long)
		}
		if b.out.Limit = refusedLimit; large.Load() {
			b.out.Limit = 0
		}
		return nil
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	runner := b.runner(t, b.pipeline)
	done := run(ctx, t, runner)
	<-long // it has tried so often that all would have come
	if _, n := heldKeys(t, runner); n*3000 < limit || n > 40 {
		t.Errorf("%d outputs are held back", n)
	}
	large.Store(true)
	b.out.Await(len(b.sent))
	stop()
	if err := soon(t, done); err != nil {
		t.Fatal(err)
	}
	checkKeys(t, b.out.Records(), b.sent)
}

// Where partitions are shared out, the group's position waits for what is held back, in its process's store: the next process
// decides it again, whether or not it has that store.
func TestHeldBackIsNotMarked(t *testing.T) {
	for _, lost := range []bool{true, false} {
		t.Run(fmt.Sprint("disk lost=", lost), func(t *testing.T) {
			const n = 40
			b := framework.NewBroker()
			for _, topic := range []string{"left", "paired", "shared.faults"} {
				b.Create(topic, 1)
			}
			pipeline := func() *framework.Pipeline {
				p := framework.NewPipeline("shared")
				p.Park(framework.Parking{})
				p.Changelog(framework.Changelog{})
				framework.To(framework.From[thing](p, "left"), "paired")
				return p
			}
			large := func(topic string, r *framework.Record) bool { return topic == "paired" && r.ID == "e3" }
			first := start(t, b, openStore(t, t.TempDir()), pipeline())
			first.member.TooLarge = large
			first.assignAll()
			records := thingRecords(n, 10, time.Second)
			b.Append("left", records...)
			awaitRecord(t, b, "paired", records[n-1].ID)
			if at, _ := b.Marked("left", 0); at > 3 {
				t.Errorf("the group is at %d, and 3 is nowhere but here", at)
			}
			var before []framework.Record
			for _, r := range records {
				if r.Key != records[3].Key {
					before = append(before, r)
				}
			}
			checkKeys(t, b.Records("paired"), before)
			first.kill()

			store := first.store
			if lost {
				store = openStore(t, t.TempDir())
			}
			second := start(t, b, store, pipeline())
			second.assignAll()
			awaitAll(t, b, "left")
			second.end()
			checkKeys(t, b.Records("paired"), records)
			if keys, _ := heldKeys(t, second.runner); len(keys) > 0 {
				t.Errorf("held back are %+v", keys)
			}
		})
	}
}
