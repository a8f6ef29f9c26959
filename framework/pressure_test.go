package framework_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
)

// slowly is two stages, in → again → slow → out, of which the second calls f for each event.
func slowly(f func(e *framework.Event[thing])) *framework.Pipeline {
	p := framework.NewPipeline("p")
	again := processors.ReKey(framework.From[thing](p, "in"), "again", func(e *framework.Event[thing]) string {
		return fmt.Sprint("r", e.Data.N%50)
	})
	framework.To(processors.Peek(again, "slow", f), "out")
	return p
}

// large are events of about so many bytes in each of two partitions, which packing does not make smaller.
func large(n, bytes int) [][]framework.Record {
	parts, random := make([][]framework.Record, 2), rand.NewChaCha8([32]byte{})
	for i, r := range thingRecords(n, 10, time.Second) {
		noise := make([]byte, bytes/2)
		_, _ = random.Read(noise)
		r.Value = fmt.Appendf(nil, `{"n":%d,"noise":"%x"}`, i, noise)
		parts[i%2] = append(parts[i%2], r)
	}
	return parts
}

// waiting counts how often tasks have begun to wait; the channel is closed when it was n times.
func waiting(t *testing.T, n int64) (count *atomic.Int64, reached <-chan struct{}) {
	t.Helper()
	count = new(atomic.Int64)
	ch := make(chan struct{})
	t.Cleanup(failpoint.Arm("task.full", func() error {
		if count.Add(1) == n {
			close(ch)
		}
		return nil
	}))
	return count, ch
}

// While the second stage does not go on, the first stops at BacklogBytes; what is behind the second is let go of.
func TestSlowStageBoundsBacklog(t *testing.T) {
	for _, c := range []struct {
		name             string
		n, bytes, batch  int
		limit, processed int64 // bytes; processed ones may stay for a while
	}{
		{"small records", 20_000, 50, 50, 40_000, 9_000 * 150},
		{"large records", 1_000, 20_000, 5, 1 << 21, 1<<20 + 200_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, 0)
			topics := topicsIn(t, b.store)
			b.feed = framework.NewFeed(map[string][][]framework.Record{"in": large(c.n, c.bytes)})
			b.feed.Bounded = true
			b.config.Routes["in"] = b.feed
			b.config.BatchEvents, b.config.BacklogBytes, b.config.InternalPartitions = c.batch, c.limit, 2
			_, bothWait := waiting(t, 2)
			written, events, waited := make(chan struct{}), 0, time.Duration(0)
			var lock sync.Mutex
			var most, mostHeld int64
			b.config.Hooks = []framework.Hook{commits(func(i framework.CommitInfo) {
				lock.Lock()
				defer lock.Unlock()
				if i.Topic == "in" {
					waited += i.Waiting
					if events += i.Events; events == c.n {
						close(written)
					}
				}
				for p := range 2 {
					start, records, bytes, err := topics.Held("p.again", p, 0) // before the position, which only rises
					at, err2 := framework.StoredPosition(b.store, fmt.Sprint("p/p.again/", p), "p.again")
					if err := errors.Join(err, err2); err != nil {
						t.Error(err)
					}
					most = max(most, bytes*(start+records-at)/max(1, records))
					mostHeld = max(mostHeld, bytes)
				}
			})}
			once := sync.OnceFunc(func() { // the first event waits until both tasks that write do
				select {
				case <-bothWait:
				case <-written:
				}
			})
			if err := soon(t, run(t.Context(), t, b.runner(t, slowly(func(*framework.Event[thing]) { once() })))); err != nil {
				t.Fatal(err)
			}
			t.Logf("at most %d bytes of backlog, %d with what was processed; %v waited", most, mostHeld, waited)
			over := int64(2 * c.batch * (c.bytes + 150)) // a round of each task
			if most < c.limit/2 || most > c.limit+over {
				t.Errorf("the backlog was %d bytes, its bound is %d", most, c.limit)
			}
			if mostHeld > c.limit+over+c.processed {
				t.Errorf("the topic held %d bytes", mostHeld)
			}
			if waited == 0 {
				t.Error("no commit tells of having waited")
			}
			if got := len(readTopic(t, topics, "out")); got != c.n {
				t.Errorf("%d outputs", got)
			}
		})
	}
}

// A task that waits for the next stage stops at once; the next run, with a bound below what is left, first makes room.
func TestStopWhileTheNextStageIsFull(t *testing.T) {
	const n, copies = 300, 10 // so a batch that is read is a tenth of what a round writes
	each := func(f func()) *framework.Pipeline {
		p := framework.NewPipeline("p")
		again := processors.ReKeyEach(framework.From[thing](p, "in"), "again", func(*framework.Event[thing]) (keys []string) {
			for i := range copies {
				keys = append(keys, fmt.Sprint("r", i))
			}
			return keys
		})
		framework.To(processors.Peek(again, "slow", func(*framework.Event[thing]) { f() }), "out")
		return p
	}
	b := newBench(t, n)
	topics := topicsIn(t, b.store)
	backlog := func() int64 {
		start, records, bytes, err := topics.Held("p.again", 0, 0)
		at, err2 := framework.StoredPosition(b.store, "p/p.again/0", "p.again")
		if err := errors.Join(err, err2); err != nil {
			t.Error(err)
		}
		return bytes * (start + records - at) / records
	}
	b.config.BatchEvents, b.config.BacklogBytes, b.config.InternalPartitions = 20, 3_000, 1
	_, full := waiting(t, 1)
	leave := make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := run(ctx, t, b.runner(t, each(func() { <-leave })))
	select {
	case <-full:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing waits")
	}
	stop()
	close(leave)
	if err := soon(t, done); err != nil {
		t.Fatal(err)
	}
	left := backlog()
	if at := b.stored(t); at == 0 || at == n || left < 1500 {
		t.Fatalf("it stopped at %d, with %d bytes of backlog", at, left)
	}
	b.feed.Bounded = true
	b.config.BatchEvents, b.config.BacklogBytes = 1, 500
	b.config.Hooks = []framework.Hook{commits(func(i framework.CommitInfo) {
		if bytes := backlog(); i.Topic == "in" && bytes > b.config.BacklogBytes+copies*60 {
			t.Errorf("%d bytes of backlog after a commit", bytes)
		}
	})}
	if err := soon(t, run(t.Context(), t, b.runner(t, each(func() {})))); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range readTopic(t, topics, "out") {
		if seen[r.ID+r.Key] {
			t.Errorf("%s of %s is there twice", r.ID, r.Key)
		}
		seen[r.ID+r.Key] = true
	}
	if len(seen) != n*copies {
		t.Errorf("%d outputs", len(seen))
	}
}

// diamond has a stage that writes to two, which write to a third, and to the third itself:
//
//	in ─┬─ left ──── pairs ─┬─ paired ─── all → out
//	    ├─ right ───┘       │             │
//	    └─ direct ──────────┼─────────────┘
//	                        └─ twice (two records each) → doubled
func diamond() *framework.Pipeline {
	p := framework.NewPipeline("p")
	in := framework.From[thing](p, "in")
	by := func(m int) func(e *framework.Event[thing]) string {
		return func(e *framework.Event[thing]) string { return fmt.Sprint(e.Data.N % m) }
	}
	number := func(v thing) string { return fmt.Sprint(v.N) }
	join := func(l, r *framework.Stream[thing], name string) *framework.Stream[thing] {
		return processors.Join(l, r, name, processors.On(number, number), processors.Window{Within: time.Hour},
			func(l, _ *framework.Event[thing]) (thing, error) { return l.Data, nil })
	}
	pairs := join(processors.ReKey(in, "left", by(7)), processors.ReKey(in, "right", by(7)), "pairs")
	framework.To(processors.ReKeyEach(pairs, "twice", func(*framework.Event[thing]) []string { return []string{"a", "b"} }), "doubled")
	framework.To(join(processors.ReKey(pairs, "paired", by(5)), processors.ReKey(in, "direct", by(5)), "all"), "out")
	return p
}

// Whatever the bounds, stages that meet again do not wait for one another for ever, and the result is the same.
func TestDiamondNeverLocksUp(t *testing.T) {
	const n = 200
	var want map[string]bool
	waits, _ := waiting(t, 1)
	rapid.Check(t, func(t *rapid.T) {
		store, err := microstore.Open(microstore.Config{InMemory: true, MemoryBytes: 32 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = store.Close() }()
		parts := make([][]framework.Record, rapid.IntRange(1, 3).Draw(t, "partitions"))
		for i, r := range thingRecords(n, 20, time.Second) {
			parts[i%len(parts)] = append(parts[i%len(parts)], r)
		}
		feed := framework.NewFeed(map[string][][]framework.Record{"in": parts})
		feed.Bounded = true
		topics := topicsIn(t, store)
		r, err := framework.New(framework.Config{
			Store: store, Transport: topics, Routes: map[string]framework.Transport{"in": feed},
			BacklogBytes:       rapid.SampledFrom([]int64{1, 100, 1000, 10_000}).Draw(t, "bound"),
			BatchEvents:        rapid.IntRange(1, 50).Draw(t, "batch"),
			Lanes:              rapid.IntRange(1, 4).Draw(t, "lanes"),
			InFlight:           rapid.IntRange(1, 3).Draw(t, "in flight"),
			InternalPartitions: rapid.IntRange(1, 3).Draw(t, "internal partitions"),
		}, diamond())
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- r.Run(context.Background()) }()
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("it locked up")
		}
		got := map[string]bool{}
		for _, topic := range []string{"out", "doubled"} {
			for _, r := range readTopic(t, topics, topic) {
				got[topic+r.ID+r.Key] = true
			}
		}
		if len(got) != 3*n {
			t.Fatalf("%d outputs", len(got))
		}
		if want == nil {
			want = got
		}
		for id := range got {
			if !want[id] {
				t.Fatalf("%s was not among the first run's", id)
			}
		}
	})
	if waits.Load() == 0 {
		t.Error("nothing had to wait")
	}
}

// A Driver takes what is in a full topic on to the next stage before it sends more.
func TestDriverPumpsFullTopics(t *testing.T) {
	var most, sent, seen int
	p := framework.NewPipeline("p")
	in := processors.Peek(framework.From[thing](p, "in"), "sent", func(*framework.Event[thing]) { sent++; most = max(most, sent-seen) })
	again := processors.ReKey(in, "again", func(*framework.Event[thing]) string { return "k" })
	framework.To(processors.Peek(again, "seen", func(*framework.Event[thing]) { seen++ }), "out")
	d := frameworktest.New(t, frameworktest.Config{BatchEvents: 10, Engine: func(c *framework.Config) { c.BacklogBytes = 2000 }}, p)
	frameworktest.Send(d, "in", things(1000, 5, atNoon)...)
	if got := len(d.Outputs("out")); got != 1000 || most > 100 {
		t.Errorf("%d outputs, %d on their way", got, most)
	}
}

// A stage cannot wait for itself.
func TestCirclesAreRefused(t *testing.T) {
	key := func(e *framework.Event[thing]) string { return e.Key }
	near, far := framework.NewPipeline("near"), framework.NewPipeline("far")
	in := framework.From[thing](near, "in")
	framework.To(processors.Merge("both", in, processors.ReKey(in, "back", key)), "out")
	in = framework.From[thing](far, "in")
	there := processors.ReKey(in, "there", key)
	framework.To(processors.ReKey(there, "aside", key), "elsewhere")
	framework.To(processors.Merge("both", in, processors.ReKey(there, "back", key)), "out")
	golden(t, "circles.txt", near.Validate().Error()+"\n"+far.Validate().Error()+"\n")
	if err := diamond().Validate(); err != nil {
		t.Error(err)
	}
}
