package framework_test

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/transport/file"
)

var errRefused = errors.New("not now")

func ids(records []framework.Record) (all []string) {
	for _, r := range records {
		all = append(all, r.ID)
	}
	return all
}

// While a sink refuses, intake stops at OutboxBytes; when it takes again, everything goes on, in order.
func TestRelayBoundsTheBacklog(t *testing.T) {
	const n, limit = 5000, 200_000
	b := newBench(t, n)
	b.feed.Bounded = true
	b.config.BatchEvents, b.config.OutboxBytes = 50, limit
	outbox, err := b.store.Outbox("out")
	if err != nil {
		t.Fatal(err)
	}
	var row []byte
	for _, r := range thingRecords(50, 10, 0) {
		row = framework.AppendRecord(row, &r)
	}
	full := limit / (len(row) + 50*framework.RecordBytes) // rows that are as many bytes as the bound, before they are packed
	most, calls, since := 0, 0, 0
	sink := &framework.TestSink{Before: func(context.Context) error {
		rows, _ := outbox.Backlog()
		most = max(most, rows)
		if calls++; since == 0 && rows > full/2 {
			since = calls
		}
		if since == 0 || calls < since+30 {
			return errRefused // until there is a backlog, and then for a while
		}
		return nil
	}}
	b.config.Routes["out"] = sink
	refused := 0
	b.config.Hooks = []framework.Hook{releases(func(i framework.ReleaseInfo) {
		if errors.Is(i.Err, errRefused) {
			refused++
		}
	})}
	if err := soon(t, run(t.Context(), t, b.runner(t, oneStep(nothing)))); err != nil {
		t.Fatal(err)
	}
	if most > full+2 { // one over it, and one that waits
		t.Errorf("the backlog was %d rows, where %d make %d bytes", most, full, limit)
	}
	if refused < 30 {
		t.Errorf("refused %d times", refused)
	}
	if got := ids(sink.Records()); !slices.Equal(got, ids(thingRecords(n, 10, 0))) {
		t.Errorf("%d records were sent, or in another order", len(got))
	}
	if rows, bytes := outbox.Backlog(); rows != 0 || bytes != 0 {
		t.Errorf("%d rows of %d bytes are left", rows, bytes)
	}
}

type releases func(framework.ReleaseInfo)

func (f releases) OnRelease(i framework.ReleaseInfo) { f(i) }

// A sink that is dead when the pipeline stops gets everything after the next start, first what was left.
func TestRelaySendsWhatWasLeft(t *testing.T) {
	const n = 500
	b := newBench(t, n)
	b.config.BatchEvents, b.config.StopTimeout = 50, 100*time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	all := make(chan struct{})
	events := 0
	b.config.Hooks = []framework.Hook{commits(func(i framework.CommitInfo) {
		if events += i.Events; events == n {
			close(all)
		}
	})}
	b.config.Routes["out"] = &framework.TestSink{Before: func(context.Context) error { return errRefused }}
	done := run(ctx, t, b.runner(t, oneStep(nothing)))
	<-all
	stop()
	if err := soon(t, done); !errors.Is(err, framework.ErrStopTimeout) {
		t.Fatalf("%v, want ErrStopTimeout", err)
	}
	outbox, err := b.store.Outbox("out")
	if err != nil {
		t.Fatal(err)
	}
	if rows, _ := outbox.Backlog(); rows != n/50 {
		t.Errorf("%d rows are left", rows)
	}
	b.feed.Push("in", 0, thingRecords(n, 10, time.Second)...)
	b.feed.Bounded, b.config.Hooks = true, nil
	sink := &framework.TestSink{}
	b.config.Routes["out"] = sink
	if err := soon(t, run(t.Context(), t, b.runner(t, oneStep(nothing)))); err != nil {
		t.Fatal(err)
	}
	want := ids(thingRecords(n, 10, 0))
	if got := ids(sink.Records()); !slices.Equal(got, append(want, want...)) {
		t.Errorf("%d records were sent, or in another order", len(got))
	}
}

// A sink that can be cut back is, also when the very first records reached it and nothing else did.
func TestRelayCutsBackFromTheFirst(t *testing.T) {
	b := newBench(t, 100)
	b.feed.Bounded = true
	path := filepath.Join(t.TempDir(), "out.jsonl")
	broken := errors.New("broken")
	for try := range 3 {
		files, err := file.New(file.Config{Outputs: map[string]file.Output{"out": {Path: path}}})
		if err != nil {
			t.Fatal(err)
		}
		b.config.Routes["out"] = files
		disarm := failpoint.Arm("release.after", func() error {
			if try < 2 {
				return broken
			}
			return nil
		})
		err = soon(t, run(t.Context(), t, b.runner(t, oneStep(nothing))))
		disarm()
		if want := try < 2; want != errors.Is(err, broken) || !want && err != nil {
			t.Fatal(err)
		}
	}
	if got := len(readLines(t, path)); got != 100 {
		t.Errorf("%d lines, want 100", got)
	}
}

// A sink that is broken for good ends the run at once, though commits wait for room in its backlog; and so does one
// that says that it will never take a record.
func TestRelayThatFailsForGood(t *testing.T) {
	for class, mark := range map[framework.Class]func(error) error{
		framework.ClassFatal: framework.Fatal, framework.ClassPermanent: framework.Permanent,
	} {
		t.Run(string(class), func(t *testing.T) {
			b := newBench(t, 5000)
			b.config.BatchEvents, b.config.OutboxBytes = 50, 1
			gone := errors.New("the sink is gone")
			outbox, err := b.store.Outbox("out")
			if err != nil {
				t.Fatal(err)
			}
			b.config.Routes["out"] = &framework.TestSink{Before: func(context.Context) error {
				if rows, _ := outbox.Backlog(); rows < 2 {
					return errRefused // until a commit waits
				}
				return mark(gone)
			}}
			err = soon(t, run(t.Context(), t, b.runner(t, oneStep(nothing))))
			if !errors.Is(err, gone) || errors.Is(err, framework.ErrStopTimeout) {
				t.Fatal(err)
			}
			if at := b.stored(t); b.feed.AckedTo("in", 0) > at {
				t.Errorf("acknowledged to %d, committed to %d", b.feed.AckedTo("in", 0), at)
			}
		})
	}
}

// Outputs that wait for their sink keep none of the bytes that histories were written with: those are in no bound, and many
// times as many.
func TestOutputsThatWaitKeepNoHistories(t *testing.T) {
	const n = 4000
	b := newBench(t, n)
	b.feed.Bounded = true
	b.config.BatchEvents, b.config.Lanes = 100, 1
	codec := &watched{Codec: framework.JSON[thing]()}
	kept := framework.NewHistory("kept", framework.HistoryConfig[thing]{Codec: codec})
	p := framework.NewPipeline("p")
	framework.To(framework.AddStep(framework.From[thing](p, "in"), framework.Step{Name: "step", Kind: "step", States: []framework.State{kept}},
		func(st *framework.Step, next framework.Next[int]) framework.Next[thing] {
			return func(s *framework.Scope, e *framework.Event[thing]) error {
				if _, err := kept.Append(s, e, ""); err != nil {
					return err
				}
				return next(s, framework.Transform(st, e, e.Data.N)) // is encoded anew
			}
		}), "out")
	committed, events := make(chan struct{}), 0
	b.config.Hooks = []framework.Hook{commits(func(i framework.CommitInfo) {
		if events += i.Events; events == n {
			close(committed)
		}
	})}
	release := make(chan struct{})
	sink := &framework.TestSink{Before: func(context.Context) error { <-release; return nil }}
	b.config.Routes["out"] = sink
	done := run(t.Context(), t, b.runner(t, p))
	select {
	case <-committed:
	case err := <-done:
		t.Fatalf("the run ended, with %d of %d events committed: %v", events, n, err)
	}
	runtime.GC()
	runtime.GC() // the second takes what is kept for the next commits
	encoded, alive := codec.count()
	close(release)
	if err := soon(t, done); err != nil {
		t.Fatal(err)
	}
	// What the lane and the store use again for the next commit may have a few.
	if encoded < n || alive > n/4 {
		t.Errorf("%d values were written to the history, there is still memory of %d", encoded, alive)
	}
	if got := len(sink.Records()); got != n {
		t.Errorf("%d outputs", got)
	}
}

// watched is a codec of large values that tells how much of their memory is in use. Several may have had the same, one after the
// other.
type watched struct {
	framework.Codec[thing]
	lock   sync.Mutex
	values []weak.Pointer[byte]
}

func (c *watched) Append(dst []byte, _ *thing) ([]byte, error) {
	dst = append(dst, make([]byte, 900)...)
	c.lock.Lock()
	defer c.lock.Unlock()
	c.values = append(c.values, weak.Make(&dst[len(dst)-1]))
	return dst, nil
}

func (c *watched) count() (all, alive int) {
	c.lock.Lock()
	defer c.lock.Unlock()
	places := make(map[weak.Pointer[byte]]bool)
	for _, v := range c.values {
		if v.Value() != nil {
			places[v] = true
		}
	}
	return len(c.values), len(places)
}
