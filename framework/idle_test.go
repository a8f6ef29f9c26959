package framework_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
)

// clock is a wall clock that stands still until it is moved.
type clock struct {
	lock  sync.Mutex
	now   time.Time
	asked chan struct{} // receives for each Now, when somebody waits
}

func (c *clock) Now() time.Time {
	c.lock.Lock()
	defer c.lock.Unlock()
	select {
	case c.asked <- struct{}{}:
	default:
	}
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.now = c.now.Add(d)
}

// twoSources is a pipeline of two sources in one stage. Each event sets a timer an hour later, or so many as its
// number says, which sends its id.
func twoSources() *framework.Pipeline {
	p := framework.NewPipeline("p")
	a, b := framework.From[thing](p, "a"), framework.From[thing](p, "b")
	out := framework.AddStep2(a, b, framework.Step{Name: "timed", Kind: "timed"},
		func(st *framework.Step, next framework.Next[string]) (framework.Next[thing], framework.Next[thing]) {
			st.OnTimer = func(s *framework.Scope, t framework.Timer) error { return emit(s, st, t, t.ID, next) }
			set := func(s *framework.Scope, e *framework.Event[thing]) error {
				return s.SetTimer(st, e.Time.Add(time.Duration(max(1, e.Data.N))*time.Hour), e.ID(), nil)
			}
			return set, set
		})
	framework.To(out, "out")
	return p
}

func record(id string, at time.Duration, hours int) framework.Record {
	return framework.Record{ID: id, Key: "k", Time: noon.Add(at), Value: fmt.Appendf(nil, `{"n":%d}`, hours)}
}

// idle runs twoSources over two feeds; commits are counted.
type idle struct {
	clock     *clock
	a, b      *framework.Feed
	sink      *framework.TestSink
	committed chan framework.CommitInfo
	done      <-chan error
	stop      context.CancelFunc
}

func startIdle(t *testing.T, endA bool, change ...func(*idle)) *idle {
	t.Helper()
	store := openStore(t, t.TempDir())
	i := &idle{clock: &clock{now: noon, asked: make(chan struct{})}, sink: &framework.TestSink{}, committed: make(chan framework.CommitInfo, 1000)}
	i.a = framework.NewFeed(map[string][][]framework.Record{"a": {nil}})
	i.b = framework.NewFeed(map[string][][]framework.Record{"b": {nil}})
	if endA {
		i.a.Push("a", 0, record("a1", 0, 1))
		i.a.Bounded = true
	}
	for _, f := range change {
		f(i)
	}
	r, err := framework.New(framework.Config{
		Store: store, Transport: topicsIn(t, store), IdleAfter: 4 * time.Millisecond, Now: i.clock.Now,
		Routes: map[string]framework.Transport{"a": i.a, "b": i.b, "out": i.sink},
		Hooks:  []framework.Hook{commits(func(c framework.CommitInfo) { i.committed <- c })},
	}, twoSources())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	i.done, i.stop = run(ctx, t, r), stop
	t.Cleanup(func() {
		stop()
		if err := soon(t, i.done); err != nil {
			t.Error(err)
		}
	})
	return i
}

// pass lets wall time pass, an hour at a time, until the watermark is at least so far, and returns it.
func (i *idle) pass(t *testing.T, watermark time.Time) time.Time {
	t.Helper()
	for range 4000 {
		select {
		case c := <-i.committed:
			if !c.Watermark.Before(watermark) {
				return c.Watermark
			}
		case <-time.After(5 * time.Millisecond):
			i.clock.move(time.Hour)
		}
	}
	t.Fatal("the watermark does not come to ", watermark)
	return time.Time{}
}

// awaitBatch waits for the commit of n events of a topic.
func (i *idle) awaitBatch(t *testing.T, topic string) framework.CommitInfo {
	t.Helper()
	for {
		select {
		case c := <-i.committed:
			if c.Topic == topic && c.Events > 0 {
				return c
			}
		case <-time.After(20 * time.Second):
			t.Fatal("no commit of ", topic)
		}
	}
}

// A quiet source holds the watermark back until it counts as idle, and again when it comes back.
func TestIdleSourceNoLongerHoldsBack(t *testing.T) {
	i := startIdle(t, false)
	i.a.Push("a", 0, record("a1", 0, 1), record("a2", 2*time.Hour, 1))
	if c := i.awaitBatch(t, "a"); !c.Watermark.IsZero() {
		t.Errorf("watermark %v, though b may still come", c.Watermark)
	}
	i.b.Push("b", 0, record("b1", 10*time.Minute, 1))
	if c := i.awaitBatch(t, "b"); !c.Watermark.Equal(noon.Add(10 * time.Minute)) {
		t.Errorf("watermark %v", c.Watermark)
	}
	// Both become idle: the watermark goes to the later of the two, so the timers of a1 and b1 fire.
	i.pass(t, noon.Add(2*time.Hour))
	if got := i.sink.Await(2); got[0].ID == got[1].ID {
		t.Error("the same twice")
	}
	// b comes back; what it holds back now is later than before.
	i.b.Push("b", 0, record("b2", 150*time.Minute, 1))
	i.awaitBatch(t, "b")
	i.pass(t, noon.Add(4*time.Hour)) // all are idle: event time goes on at the pace of the clock
	i.sink.Await(4)
}

// A source of which nothing has been heard yet is not idle, however long its transport takes to read the first record.
func TestSlowFirstBatchIsNotIdle(t *testing.T) {
	slow := make(chan struct{})
	i := startIdle(t, false, func(i *idle) { i.b.Hold = slow })
	i.a.Push("a", 0, record("a1", 0, 1), record("a2", 2*time.Hour, 1))
	i.awaitBatch(t, "a")
	i.clock.move(time.Hour)
	for range 20 { // so the task has looked for idle sources since
		<-i.clock.asked
	}
	for done := false; !done; {
		select {
		case c := <-i.committed:
			if !c.Watermark.IsZero() {
				t.Errorf("watermark %v, though b was not read yet", c.Watermark)
			}
		default:
			done = true
		}
	}
	close(slow)
	i.pass(t, noon.Add(2*time.Hour)) // b has nothing, and says so
}

// A source that has ended and one that is quiet: the quiet one may still go on, so event time does not come to
// its end, and neither does the run.
func TestEndOfOneSourceIsNotTheEnd(t *testing.T) {
	i := startIdle(t, true)
	i.awaitBatch(t, "a")
	i.b.Push("b", 0, record("b1", 10*time.Minute, 1000))
	i.awaitBatch(t, "b")
	if at := i.pass(t, noon.Add(5*time.Hour)); at.After(noon.Add(48 * time.Hour)) {
		t.Errorf("watermark %v", at)
	}
	if got := i.sink.Await(1); len(got) != 1 || !got[0].Time.Equal(noon.Add(time.Hour)) {
		t.Errorf("%d timers fired", len(got))
	}
	i.b.Push("b", 0, record("b2", 11*time.Minute, 1000))
	c := i.awaitBatch(t, "b")
	if c.Watermark.After(noon.Add(48 * time.Hour)) {
		t.Errorf("watermark %v", c.Watermark)
	}
}

// The other way round: a source ends while the other is idle.
func TestEndWhileTheOtherIsIdle(t *testing.T) {
	i := startIdle(t, false)
	i.b.Push("b", 0, record("b1", 0, 1000))
	i.awaitBatch(t, "b")
	i.a.Push("a", 0, record("a1", time.Minute, 1))
	i.awaitBatch(t, "a")
	i.pass(t, noon.Add(time.Minute))
	i.a.End("a", 0)
	if at := i.pass(t, noon.Add(5*time.Hour)); at.After(noon.Add(48 * time.Hour)) {
		t.Fatalf("watermark %v", at)
	}
	i.b.Push("b", 0, record("b2", 0, 1))
	i.awaitBatch(t, "b")
}

// Each source's own watermark is part of the state: after a restart the ones that do not come first still count.
func TestWatermarksOfSourcesAreKept(t *testing.T) {
	d := frameworktest.New(t, frameworktest.Config{}, twoSources())
	d.Send("a", record("a1", 0, 1), record("a2", 2*time.Hour, 1))
	d.Send("b", record("b1", 10*time.Minute, 1))
	d.Restart()
	if got := len(d.Outputs("out")); got != 0 {
		t.Errorf("%d timers fired, b is at ten past twelve", got)
	}
	d.Send("b", record("b2", 90*time.Minute, 1))
	if got := len(d.Outputs("out")); got != 2 {
		t.Errorf("%d timers fired, want those of a1 and b1", got)
	}
}
