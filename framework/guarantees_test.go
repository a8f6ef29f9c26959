package framework_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/embedded"
)

func openStore(t testing.TB, dir string, change ...func(*microstore.Config)) *microstore.Store {
	t.Helper()
	c := microstore.Config{Dir: dir, GCInterval: -1, MemoryBytes: 64 << 20}
	for _, f := range change {
		f(&c)
	}
	store, err := microstore.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

// tester is a testing.TB or a rapid.T.
type tester interface {
	Helper()
	Fatal(args ...any)
	Context() context.Context
}

func topicsIn(t tester, store *microstore.Store) *embedded.Transport {
	t.Helper()
	topics, err := embedded.New(store, embedded.Config{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	return topics
}

func readTopic(t tester, topics *embedded.Transport, name string) (all []framework.Record) {
	t.Helper()
	info, err := topics.Topic(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	for p := range info.Partitions {
		_, err := topics.Read(t.Context(), name, p, 0, func(r framework.Record) error {
			if !r.Watermark {
				all = append(all, r)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func thingRecords(n, keys int, step time.Duration) []framework.Record {
	all := make([]framework.Record, n)
	for i := range all {
		all[i] = framework.Record{ID: fmt.Sprint("e", i), Key: fmt.Sprint("k", i%keys), Time: noon.Add(time.Duration(i) * step),
			Value: fmt.Appendf(nil, `{"n":%d}`, i)}
	}
	return all
}

// bad decides by the event what becomes of it, so that it is the same in every run.
func bad(id string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return h.Sum32() % 100
}

// Events finish in any order, in lanes side by side, and are filtered, fail, fail at first, panic or are slow. Still
// what is acknowledged is in the store, and what goes out of a key is in the order in which it came in.
func TestOrderAndAcknowledgement(t *testing.T) {
	for _, lanes := range []int{1, 4, 16} {
		for _, batch := range []int{1, 7, 1000} {
			t.Run(fmt.Sprintf("lanes=%d,batch=%d", lanes, batch), func(t *testing.T) {
				n := 10_000
				if batch == 1 {
					n = 1_500 // a commit for each
				}
				orderAndAcknowledgement(t, n, lanes, batch)
			})
		}
	}
}

func orderAndAcknowledgement(t *testing.T, n, lanes, batch int) {
	store := openStore(t, t.TempDir())
	topics := topicsIn(t, store)
	seed := rand.Uint64()
	t.Log("seed", seed)
	var lock sync.Mutex
	random, failed := rand.New(rand.NewPCG(seed, 0)), map[string]bool{}
	p := framework.NewPipeline("p")
	step := framework.AddStep(framework.From[thing](p, "in"), framework.Step{Name: "step", Kind: "step"},
		func(st *framework.Step, next framework.Next[thing]) framework.Next[thing] {
			return func(s *framework.Scope, e *framework.Event[thing]) error {
				lock.Lock()
				spin, again := random.IntN(100) < 5, !failed[e.ID()]
				failed[e.ID()] = true
				lock.Unlock()
				if spin {
					for end := time.Now().Add(50 * time.Microsecond); time.Now().Before(end); {
					}
				}
				switch what := bad(e.ID()); {
				case what < 20:
					return nil
				case what < 25:
					if err := next(s, e); err != nil { // it is taken back
						return err
					}
					return errors.New("bad")
				case what < 27:
					panic("worse")
				case what < 32 && again:
					if err := next(s, e); err != nil {
						return err
					}
					return framework.Transient(errors.New("not yet"))
				}
				return next(s, e)
			}
		})
	framework.To(step, "out")
	framework.To(step, "sent")
	feed := framework.NewFeed(map[string][][]framework.Record{"in": {thingRecords(n, 100, time.Second)}})
	feed.Bounded = true
	acks := 0
	feed.Acked = func(topic string, partition int, position int64) {
		acks++
		stored, err := framework.StoredPosition(store, fmt.Sprintf("p/in/%d", partition), topic)
		if err != nil || stored < position {
			t.Errorf("acknowledged to %d, committed to %d (%v)", position, stored, err)
		}
	}
	sink := &framework.TestSink{}
	runner, err := framework.New(framework.Config{
		Store: store, Transport: topics, Lanes: lanes, BatchEvents: batch, InFlight: 4,
		Routes: map[string]framework.Transport{"in": feed, "sent": sink},
		Retry:  framework.Retry{First: time.Nanosecond, Most: time.Nanosecond},
	}, p)
	if err != nil {
		t.Fatal(err)
	}
	if err := runner.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if acks == 0 {
		t.Error("nothing was acknowledged")
	}
	want, faults := map[string][]string{}, 0
	for _, r := range thingRecords(n, 100, time.Second) {
		switch what := bad(r.ID); {
		case what < 20:
		case what < 27:
			faults++
		default:
			want[r.Key] = append(want[r.Key], r.ID)
		}
	}
	for name, records := range map[string][]framework.Record{"out": readTopic(t, topics, "out"), "sent": sink.Records()} {
		got := map[string][]string{}
		for _, r := range records {
			got[r.Key] = append(got[r.Key], r.ID)
		}
		for key := range want {
			if !slices.Equal(got[key], want[key]) {
				t.Errorf("%s, key %s: got\n%v, want\n%v", name, key, got[key], want[key])
			}
		}
	}
	if got := len(readTopic(t, topics, "p.faults")); got != faults {
		t.Errorf("%d faults, want %d", got, faults)
	}
}

// A store that refuses ends the run with its error and nothing acknowledged; the same store, once there is room
// again, takes up where it was, though the failed run has left its traces in memory.
func TestStoreThatIsFull(t *testing.T) {
	const n = 500
	dir := t.TempDir()
	feed := framework.NewFeed(map[string][][]framework.Record{"in": {thingRecords(n, 10, time.Second)}})
	feed.Bounded = true
	try := func(store *microstore.Store) error {
		runner, err := framework.New(framework.Config{Store: store, Transport: topicsIn(t, store), BatchEvents: 50,
			Routes: map[string]framework.Transport{"in": feed}}, counting(nil))
		if err != nil {
			t.Fatal(err)
		}
		return runner.Run(t.Context())
	}
	store, err := microstore.Open(microstore.Config{Dir: dir, GCInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	full := &atomic.Bool{}
	full.Store(true)
	hits := 0
	disarm := failpoint.Arm("commit.before", func() error {
		if hits++; hits > 3 && full.Load() {
			return fmt.Errorf("commit: %w: 0 MiB left", microstore.ErrFull)
		}
		return nil
	})
	defer disarm()
	if err := try(store); !errors.Is(err, microstore.ErrFull) || !strings.Contains(err.Error(), "p/in/0") {
		t.Fatalf("%v, want ErrFull, and the task", err)
	}
	if at := feed.AckedTo("in", 0); at > 150 {
		t.Errorf("acknowledged to %d, committed to 150", at)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}

	refusing := openStore(t, dir, func(c *microstore.Config) { c.MinFreeBytes = 1 << 60 })
	if err := try(refusing); !errors.Is(err, microstore.ErrFull) {
		t.Fatalf("%v, want ErrFull", err)
	}
	if at := feed.AckedTo("in", 0); at > 150 {
		t.Errorf("acknowledged to %d, committed to 150", at)
	}
	if err := refusing.Close(); err != nil {
		t.Fatal(err)
	}

	store = openStore(t, dir)
	hits = 0
	if err := try(store); !errors.Is(err, microstore.ErrFull) {
		t.Fatalf("%v, want ErrFull", err)
	}
	full.Store(false)
	if err := try(store); err != nil {
		t.Fatal(err)
	}
	if got := readTopic(t, topicsIn(t, store), "out"); len(got) != n {
		t.Errorf("%d outputs, want %d", len(got), n)
	}
	if at, err := framework.StoredPosition(store, "p/in/0", "in"); at != n || err != nil {
		t.Errorf("committed to %d, %v", at, err)
	}
}

// counting counts the events of each key in a table and passes on the counts; fail, if not nil, is asked first.
func counting(fail func(e *framework.Event[thing]) error) *framework.Pipeline {
	p := framework.NewPipeline("p")
	table := framework.NewTable[int]("table", nil)
	history := framework.NewHistory("history", framework.HistoryConfig[thing]{Retain: time.Hour})
	out := framework.AddStep(framework.From[thing](p, "in"),
		framework.Step{Name: "counts", Kind: "counts", States: []framework.State{table, history}},
		func(st *framework.Step, next framework.Next[string]) framework.Next[thing] {
			return func(s *framework.Scope, e *framework.Event[thing]) error {
				n, _, err := table.Get(s)
				if err != nil {
					return err
				}
				if err := table.Set(s, n+1); err != nil {
					return err
				}
				added, err := history.Append(s, e, "")
				if err != nil {
					return err
				}
				if !added {
					return errors.New("it has been here before")
				}
				if fail != nil {
					if err := fail(e); err != nil {
						return err
					}
				}
				v, err := history.View(s, "")
				if err != nil {
					return err
				}
				return next(s, framework.Transform(st, e, fmt.Sprint(n+1, " ", v.Len())))
			}
		})
	framework.To(out, "out")
	return p
}

// A run that failed leaves nothing behind in the open store: the next one over it gives what one run gives.
func TestAnotherRunOverAnOpenStore(t *testing.T) {
	const n, keys = 1000, 10
	results := map[string][]framework.Record{}
	for _, how := range []string{"at once", "failing"} {
		store := openStore(t, t.TempDir())
		topics := topicsIn(t, store)
		feed := framework.NewFeed(map[string][][]framework.Record{"in": {thingRecords(n, keys, time.Minute)}})
		feed.Bounded = true
		var at = n
		if how == "failing" {
			at = 130
		}
		for done := false; !done; at += 117 {
			stop := at
			runner, err := framework.New(framework.Config{Store: store, Transport: topics, BatchEvents: 50, Lanes: 4,
				Routes: map[string]framework.Transport{"in": feed}}, counting(func(e *framework.Event[thing]) error {
				if e.Data.N == stop {
					return framework.Fatal(errors.New("stop"))
				}
				return nil
			}))
			if err != nil {
				t.Fatal(err)
			}
			err = runner.Run(t.Context())
			if done = at >= n; done != (err == nil) {
				t.Fatalf("stopped at %d: %v", at, err)
			}
		}
		results[how] = readTopic(t, topics, "out")
		if faults := readTopic(t, topics, "p.faults"); len(faults) > 0 {
			t.Fatalf("%s: %d faults: %s", how, len(faults), faults[0].Value)
		}
	}
	one, other := results["at once"], results["failing"]
	if len(one) != n || len(other) != n {
		t.Fatalf("%d and %d outputs", len(one), len(other))
	}
	values := func(all []framework.Record) map[string]string {
		m := map[string]string{}
		for _, r := range all {
			m[r.ID] = string(r.Value)
		}
		return m
	}
	a, b := values(one), values(other)
	for id := range a {
		if a[id] != b[id] {
			t.Fatalf("output %s: %s at once, %s over several runs", id, a[id], b[id])
		}
	}
}

// A source that delivers again what was committed before, in other batches, is not counted twice.
func TestDeliveredAgain(t *testing.T) {
	store := openStore(t, t.TempDir())
	topics := topicsIn(t, store)
	feed := framework.NewFeed(map[string][][]framework.Record{"in": {thingRecords(1000, 10, time.Second)}})
	feed.Again = true
	for try, stop := range []int{333, 500, 777, -1} {
		feed.Bounded = stop < 0
		r, err := framework.New(framework.Config{Store: store, Transport: topics, BatchEvents: 40 + try,
			Routes: map[string]framework.Transport{"in": feed}}, oneStep(func(_ *framework.Scope, e *framework.Event[thing]) error {
			if e.Data.N == stop {
				return framework.Fatal(errors.New("stop"))
			}
			return nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		if err := soon(t, run(t.Context(), t, r)); (err == nil) != feed.Bounded {
			t.Fatal(err)
		}
	}
	seen := map[string]int{}
	for _, r := range readTopic(t, topics, "out") {
		seen[r.ID]++
	}
	for id, n := range seen {
		if n > 1 {
			t.Fatalf("%s was sent %d times", id, n)
		}
	}
	if len(seen) != 1000 {
		t.Errorf("%d outputs", len(seen))
	}
}

// A finished pipeline that is run again over sources that have grown processes what is new, to the end.
func TestRunAgainAfterTheEnd(t *testing.T) {
	store := openStore(t, t.TempDir())
	topics := topicsIn(t, store)
	feed := framework.NewFeed(map[string][][]framework.Record{"in": {thingRecords(100, 10, time.Second)}})
	feed.Bounded = true
	for run := 1; run <= 3; run++ {
		p := framework.NewPipeline("p")
		again := framework.AddReKey(framework.From[thing](p, "in"), "again", framework.ReKey[thing]{
			Key: func(e *framework.Event[thing]) string { return fmt.Sprint(e.Data.N % 3) }})
		framework.To(again, "out")
		runner, err := framework.New(framework.Config{Store: store, Transport: topics,
			Routes: map[string]framework.Transport{"in": feed}}, p)
		if err != nil {
			t.Fatal(err)
		}
		if err := runner.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := len(readTopic(t, topics, "out")); got != 100*run {
			t.Fatalf("run %d: %d outputs", run, got)
		}
		feed.Push("in", 0, thingRecords(100, 10, time.Second)...)
	}
}

// run runs in the background.
func run(ctx context.Context, t testing.TB, r *framework.Runner) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return done
}
