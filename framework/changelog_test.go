package framework_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
)

// loggedPairs is sharedPairs with a changelog that is copied often.
func loggedPairs() *framework.Pipeline {
	p := sharedPairs()
	p.Changelog(framework.Changelog{CopyBytes: 2 << 10})
	return p
}

// copiedOnce is sharedPairs with a changelog that is not copied again.
func copiedOnce() *framework.Pipeline {
	p := sharedPairs()
	p.Changelog(framework.Changelog{CopyBytes: 1 << 30})
	return p
}

const pairsLog, countsLog = "shared.left.changelog", "shared.shared.by-digit.changelog"

// deleteProcessed removes all source records that the group is past.
func deleteProcessed(b *framework.Broker) {
	deleteProcessedOf(b, sharedTopics...)
}

func deleteProcessedOf(b *framework.Broker, topics ...string) {
	for _, topic := range topics {
		for p := range sharedPartitions {
			if at, ok := b.Marked(topic, p); ok {
				b.Delete(topic, p, at)
			}
		}
	}
}

// Partitions move at random between processes that keep their state or have lost it, while the topics keep nothing that
// is processed: the state is that of all events, from the changelog alone.
func TestChangelogUnderFaults(t *testing.T) {
	seeds := 8
	if testing.Short() {
		seeds = 3
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			checkShared(t, sharedUnderFaults(t, uint64(seed), loggedPairs, deleteProcessed, sharedTopics...))
		})
	}
}

// A process fails at each point around a commit, a send, a copy and a claim. Another one without its disk, or the same
// again with it, goes on, though the topics keep nothing that is processed.
func TestChangelogFailsAtEachPoint(t *testing.T) {
	const n = 60
	for _, point := range []string{
		"commit.before", "commit.after", "ack.before", "ack.after", "release.before", "release.after", "release.forgotten",
		"changelog.claim", "changelog.copied", "store.commit.before", "store.commit.after",
	} {
		for _, keeps := range []bool{true, false} {
			t.Run(fmt.Sprint(point, "/keeps ", keeps), func(t *testing.T) {
				b := sharedBroker(n)
				dir := t.TempDir()
				fed := n
				for _, nth := range []int64{1, 3, 7} {
					failOnce(t, b, dir, point, nth)
					deleteProcessed(b)
					feedPairs(b, fed, fed+n)
					fed += n
					if !keeps {
						dir = t.TempDir()
					}
				}
				last := start(t, b, openStore(t, dir), loggedPairs())
				last.assignAll()
				awaitAll(t, b, sharedTopics...)
				last.end()
				checkPairs(t, b, fed)
				checkCounts(t, b, fed)
			})
		}
	}
}

// failOnce runs a process until it fails at the nth hit of a point, or has done all.
func failOnce(t *testing.T, b *framework.Broker, dir, point string, nth int64) {
	t.Helper()
	store, err := microstore.Open(microstore.Config{Dir: dir, GCInterval: -1, MemoryBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, b, store, loggedPairs())
	var hits atomic.Int64
	disarm := failpoint.Arm(point, func() error {
		if hits.Add(1) == nth {
			return errRefused
		}
		return nil
	})
	for group, topics := range p.member.Groups() {
		info, _ := p.member.Topic(t.Context(), topics[0])
		for partition := range info.Partitions {
			_ = p.member.Assign(group, partition) // it may have failed already
		}
	}
	deadline := time.Now().Add(time.Minute)
	failed := false
	for !failed && b.Behind(sharedTopics...) > 0 {
		select {
		case err := <-p.done:
			if failed = true; !errors.Is(err, errRefused) {
				t.Errorf("it ended with %v", err)
			}
		case <-time.After(time.Millisecond):
			if time.Now().After(deadline) {
				t.Fatal("it neither fails nor ends")
			}
		}
	}
	disarm()
	p.member.Kill()
	p.stop()
	if !failed {
		if err := soon(t, p.done); err != nil && !errors.Is(err, framework.ErrStopTimeout) {
			t.Error(err)
		}
	}
	if err := store.Close(); err != nil && !errors.Is(err, microstore.ErrFailed) {
		t.Fatal(err)
	}
}

// await waits until the group has marked everything, or the process fails.
func (p *process) await(topics ...string) {
	p.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for p.member.Behind(topics...) > 0 {
		select {
		case err := <-p.done:
			p.t.Fatalf("the process has ended: %v", err)
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("the group is %d records behind", p.member.Behind(topics...))
		}
	}
}

// awaitState waits until a state of tasks has been told n times.
func (p *process) awaitState(state framework.TaskState, n int) {
	p.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for p.states.count(state) < n {
		if time.Now().After(deadline) {
			p.t.Fatalf("%d tasks are %s, want %d", p.states.count(state), state, n)
		}
		time.Sleep(time.Millisecond)
	}
}

// A process that does not know that its partitions are another's goes on writing: nobody counts that, neither who has
// them nor who comes after.
func TestChangelogOfAZombie(t *testing.T) {
	const n = 100
	b := sharedBroker(n)
	zombie := start(t, b, openStore(t, t.TempDir()), loggedPairs())
	zombie.assignAll()
	awaitAll(t, b, sharedTopics...)
	stopped, goOn := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	zombie.member.Refuse = func(ctx context.Context) error { // it is stopped in the middle of sending
		if once.CompareAndSwap(false, true) {
			close(stopped)
		}
		select {
		case <-goOn:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	feedPairs(b, n, 2*n)
	<-stopped
	owner := start(t, b, openStore(t, t.TempDir()), loggedPairs())
	owner.assignAll()
	awaitAll(t, b, sharedTopics...)
	deleteProcessed(b)
	close(goOn)
	written := func() (all int) {
		for _, log := range []string{pairsLog, countsLog} {
			for p := range sharedPartitions {
				all += b.Fenced(log, p)
			}
		}
		return all
	}
	deadline := time.Now().Add(time.Minute)
	for written() < 10 {
		if time.Now().After(deadline) {
			t.Fatalf("the one that is fenced has written %d records, so this tests nothing", written())
		}
		time.Sleep(time.Millisecond)
	}
	feedPairs(b, 2*n, 3*n)
	awaitAll(t, b, sharedTopics...)
	zombie.kill()
	owner.kill()
	deleteProcessed(b)
	third := start(t, b, openStore(t, t.TempDir()), loggedPairs()) // from the changelog alone
	third.assignAll()
	feedPairs(b, 3*n, 4*n)
	third.await(sharedTopics...)
	awaitAll(t, b, sharedTopics...)
	third.end()
	checkPairs(t, b, 4*n)
	checkCounts(t, b, 4*n)
}

// A process that does not know that its partitions are another's has sent all of its commits, which do not count, and is given
// the partitions again. It does not take its commits for those of the same numbers that count.
func TestChangelogOfAZombieThatComesBack(t *testing.T) {
	const n, few, later = 40, 8, 20
	b := sharedBroker(n)
	records := thingRecords(3*n, 50, time.Second)
	var committed, forgotten atomic.Int64 // of the first stage; by the relays
	zombie := start(t, b, openStore(t, t.TempDir()), copiedOnce(), func(c *framework.Config) {
		c.BatchEvents, c.Hooks = 1, append(c.Hooks, &taskStates{onCommit: func(i framework.CommitInfo) {
			if strings.HasPrefix(i.Task, "shared/left") {
				committed.Add(int64(i.Events))
			}
		}})
	})
	zombie.assignAll()
	awaitAll(t, b, sharedTopics...)
	goOn := make(chan struct{})
	zombie.member.Refuse = func(ctx context.Context) error { // it is stopped before it sends
		select {
		case <-goOn:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	b.Append("left", records[n:n+few]...)
	awaitThat(t, "it has committed a few", func() bool { return committed.Load() == 2*n+few })
	zombie.member.Deafen()
	b.Append("left", records[n+few:]...)
	owner := start(t, b, openStore(t, t.TempDir()), copiedOnce(), func(c *framework.Config) { c.BatchEvents = 1000 })
	owner.assignAll() // its first commits have more than those of the other
	for i := range later {
		awaitAll(t, b, sharedTopics...)
		feedPairs(b, 3*n+i, 3*n+i+1)
	}
	awaitAll(t, b, sharedTopics...)
	owner.kill()
	disarm := failpoint.Arm("release.forgotten", func() error { forgotten.Add(1); return nil })
	defer disarm()
	parts := map[int]bool{}
	for _, r := range records[n : n+few] {
		parts[framework.Partition(r.Key, sharedPartitions)] = true
	}
	close(goOn)
	awaitThat(t, "what it has sent is forgotten", func() bool { return forgotten.Load() >= int64(len(parts)) })
	for group, partitions := range []int{sharedPartitions, 2} {
		for p := range partitions {
			zombie.member.Lose(group, p)
		}
	}
	deleteProcessed(b)
	zombie.assignAll()
	for _, r := range records[n:] {
		r.ID = "right-" + r.ID
		b.Append("right", r)
	}
	zombie.await(sharedTopics...)
	zombie.end()
	checkPairs(t, b, 3*n+later)
	checkCounts(t, b, 3*n+later)
}

// A process was given its partitions when the group was new, and stood still before it claimed them, until others had
// them. It does not claim them over those.
func TestChangelogOfAZombieOfANewGroup(t *testing.T) {
	const n, tasks = 100, sharedPartitions + 2
	b := sharedBroker(n)
	var claims atomic.Int64
	goOn := make(chan struct{})
	defer failpoint.Arm("changelog.claim", func() error {
		if claims.Add(1) <= tasks {
			<-goOn
		}
		return nil
	})()
	zombie := start(t, b, openStore(t, t.TempDir()), loggedPairs())
	zombie.assignAll()
	awaitThat(t, "all tasks stand still", func() bool { return claims.Load() >= tasks })
	owner := start(t, b, openStore(t, t.TempDir()), loggedPairs())
	owner.assignAll()
	owner.await(sharedTopics...)
	asked := make(chan struct{}, 2*tasks)
	zombie.member.Asked = func() { asked <- struct{}{} }
	before := claims.Load()
	close(goOn)
	for range tasks { // of each task, or it claims again
		select {
		case <-asked:
		case <-time.After(time.Minute):
			t.Fatalf("the group was not asked, and there were %d claims", claims.Load()-before)
		}
	}
	zombie.kill()
	feedPairs(b, n, 2*n)
	owner.await(sharedTopics...)
	owner.kill()
	deleteProcessed(b)
	third := start(t, b, openStore(t, t.TempDir()), loggedPairs()) // from the changelog alone
	third.assignAll()
	feedPairs(b, 2*n, 3*n)
	third.await(sharedTopics...)
	third.end()
	checkPairs(t, b, 3*n)
	checkCounts(t, b, 3*n)
}

// A process that gives its partitions back is stopped in the midst of it, until others have had them, and have gone: it
// does not take what they have written for what it has.
func TestChangelogOfAZombieThatCloses(t *testing.T) {
	const n = 100
	b := sharedBroker(n)
	one := start(t, b, openStore(t, t.TempDir()), copiedOnce())
	var stands atomic.Bool
	stopped, goOn := make(chan struct{}, 100), make(chan struct{})
	one.member.Unreadable = func() error {
		if stands.Load() {
			stopped <- struct{}{}
			<-goOn
		}
		return nil
	}
	one.assignAll()
	awaitAll(t, b, sharedTopics...)
	stands.Store(true)
	var closing sync.WaitGroup
	for group, partitions := range []int{sharedPartitions, 2} {
		for p := range partitions {
			closing.Go(func() { one.member.Revoke(context.Background(), group, p) })
		}
	}
	for range sharedPartitions + 2 {
		select {
		case <-stopped:
		case <-time.After(time.Minute):
			t.Fatal("not all of its tasks read the log back")
		}
	}
	two := start(t, b, openStore(t, t.TempDir()), copiedOnce())
	two.assignAll()
	feedPairs(b, n, 2*n)
	two.await(sharedTopics...)
	two.end()
	deleteProcessed(b)
	stands.Store(false)
	close(goOn)
	closing.Wait()
	one.assignAll()
	feedPairs(b, 2*n, 3*n)
	one.await(sharedTopics...)
	one.end()
	checkPairs(t, b, 3*n)
	checkCounts(t, b, 3*n)
}

// A process that had the partitions before, and was away for a moment, reads what is new in the changelog and no more.
func TestChangelogTail(t *testing.T) {
	const n = 400
	b := sharedBroker(0)
	quiet := copiedOnce // or copies would be what is new
	dir := t.TempDir()
	one := start(t, b, openStore(t, dir), quiet())
	one.assignAll()
	for i := 0; i < n; i += 20 {
		feedPairs(b, i, i+20)
		awaitAll(t, b, sharedTopics...)
	}
	for group, partitions := range []int{sharedPartitions, 2} {
		for p := range partitions {
			one.member.Revoke(t.Context(), group, p)
		}
	}
	two := start(t, b, openStore(t, t.TempDir()), quiet())
	two.assignAll()
	two.awaitState(framework.TaskRestored, sharedPartitions+2)
	feedPairs(b, n, n+20)
	awaitAll(t, b, sharedTopics...)
	two.end()
	deleteProcessed(b)
	one.assignAll()
	one.awaitState(framework.TaskRestored, sharedPartitions+2)
	feedPairs(b, n+20, n+40)
	awaitAll(t, b, sharedTopics...)
	one.end()
	whole, tail := two.states.longest(), one.states.longest()
	if whole == 0 || tail == 0 || tail > whole/3 {
		t.Errorf("%d records were read where the state was there, %d where it was not", tail, whole)
	}
	checkPairs(t, b, n+40)
	checkCounts(t, b, n+40)
}

// longest is the largest target of a task that was restored.
func (s *taskStates) longest() (most int64) {
	s.Lock()
	defer s.Unlock()
	for _, i := range s.all {
		if i.State == framework.TaskRestoring {
			most = max(most, i.Target)
		}
	}
	return most
}

// A pipeline that has state already can be given a changelog, and one whose changelog is gone makes it anew; a process
// with an old state in its store is brought up by it.
func TestChangelogIsBegunLater(t *testing.T) {
	const n = 100
	b := sharedBroker(n)
	one, two := t.TempDir(), t.TempDir()
	var log bytes.Buffer
	logger := func(c *framework.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) }
	run := func(dir string, p *framework.Pipeline, fed int) *process {
		pr := start(t, b, openStore(t, dir), p, logger)
		pr.assignAll()
		awaitAll(t, b, sharedTopics...)
		feedPairs(b, fed, fed+n)
		awaitAll(t, b, sharedTopics...)
		deleteProcessed(b)
		return pr
	}
	ended := func(p *process) {
		t.Helper()
		p.end()
		if err := p.store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	old := start(t, b, openStore(t, two), sharedPairs())
	old.assignAll()
	awaitAll(t, b, sharedTopics...)
	ended(old)
	ended(run(one, sharedPairs(), n))
	ended(run(one, loggedPairs(), 2*n))
	ended(run(two, loggedPairs(), 3*n))
	b.Remove(pairsLog)
	b.Remove(countsLog)
	ended(run(two, loggedPairs(), 4*n))
	ended(run(t.TempDir(), loggedPairs(), 5*n))
	checkPairs(t, b, 6*n)
	checkCounts(t, b, 6*n)
	for _, line := range []string{"the state is copied; until that is done it is nowhere but in this process's store", `the state is copied"`} {
		if told, want := strings.Count(log.String(), line), 2*(sharedPartitions+2); told != want { // of each task, of both logs
			t.Errorf("%d times %q, want %d", told, line, want)
		}
	}
}

// Processes that go on without the changelog leave it behind; then it is not gone by, and that is said. The process with
// the state goes on.
func TestChangelogThatIsLeftBehind(t *testing.T) {
	const n = 50
	b := sharedBroker(n)
	dir := t.TempDir()
	for i, p := range []*framework.Pipeline{loggedPairs(), sharedPairs()} {
		pr := start(t, b, openStore(t, dir), p)
		pr.assignAll()
		feedPairs(b, n*(i+1), n*(i+2))
		awaitAll(t, b, sharedTopics...)
		pr.end()
		if err := pr.store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	deleteProcessed(b)
	other := start(t, b, openStore(t, t.TempDir()), loggedPairs())
	other.assignAllOrFail()
	if err := soon(t, other.done); err == nil || !strings.Contains(err.Error(), "processes have gone on without it") {
		t.Errorf("Run ended with %v", err)
	}
	last := start(t, b, openStore(t, dir), loggedPairs())
	last.assignAll()
	feedPairs(b, 3*n, 4*n)
	awaitAll(t, b, sharedTopics...)
	last.end()
	checkPairs(t, b, 4*n)
	checkCounts(t, b, 4*n)
}

// A process that begins a changelog while it makes the state anew dies before it is where the group is. What it has written is
// no state to begin from: the next process makes it anew, too.
func TestChangelogBegunBehindTheGroup(t *testing.T) {
	for _, until := range []int{0, 100} { // before its first commit, and amid the way
		t.Run(fmt.Sprint(until), func(t *testing.T) { changelogBegunBehind(t, until) })
	}
}

func changelogBegunBehind(t *testing.T, until int) {
	const n = 200
	b := sharedBroker(n)
	var holds atomic.Bool
	var done atomic.Int64
	goOn := make(chan struct{})
	pipeline := func(log bool) *framework.Pipeline {
		p := framework.NewPipeline("shared")
		if log {
			p.Changelog(framework.Changelog{})
		}
		held := processors.Map(framework.From[thing](p, "left"), "held", func(e *framework.Event[thing]) (thing, error) {
			if holds.Load() && e.Data.N >= until {
				<-goOn
			}
			return e.Data, nil
		})
		framework.To(processors.Fold(held, "count", total{}, func(c total, e *framework.Event[thing]) (total, error) {
			return total{e.Key, c.Count + 1}, nil
		}), "counts")
		return p
	}
	without := start(t, b, openStore(t, t.TempDir()), pipeline(false))
	without.assignAllOf(0)
	awaitAll(t, b, "left")
	without.end()

	holds.Store(true)
	dies := start(t, b, openStore(t, t.TempDir()), pipeline(true), func(c *framework.Config) { c.Lanes = 1 })
	dies.states.onCommit = func(i framework.CommitInfo) { done.Add(int64(i.Events)) }
	dies.assignAllOf(0)
	awaitThat(t, "the changelog is begun", func() bool {
		return done.Load() >= int64(until)/4 && len(b.Records("shared.left.changelog")) >= 2*sharedPartitions
	})
	dies.member.Kill()
	holds.Store(false)
	close(goOn)
	dies.kill()

	next := start(t, b, openStore(t, t.TempDir()), pipeline(true))
	next.assignAllOf(0)
	b.Append("left", thingRecords(n+50, 50, time.Second)[n:]...) // one of each key
	awaitAll(t, b, "left")
	next.end()
	checkCounts(t, b, n+50)
}

// A source that cannot be read any further ends the run also where it is read from a position that the state is past.
func TestSourceEndsBehindTheState(t *testing.T) {
	b := sharedBroker(50)
	b.Hold("left") // so the group is at the beginning, and the state in the changelog is not
	before := start(t, b, openStore(t, t.TempDir()), loggedPairs())
	before.assignAll()
	awaitAll(t, b, "right", "shared.by-digit")
	before.end()
	after := start(t, b, openStore(t, t.TempDir()), loggedPairs())
	gone := errors.New("its records are gone")
	after.member.Ends = func(topic string) error {
		if topic == "left" {
			return gone
		}
		return nil
	}
	after.assignAllOrFail()
	if err := soon(t, after.done); !errors.Is(err, gone) {
		t.Errorf("Run ended with %v", err)
	}
}

// assignAllOrFail is assignAll to a process that may have ended already.
func (p *process) assignAllOrFail() {
	for group, partitions := range []int{sharedPartitions, 2}[:len(p.member.Groups())] {
		for partition := range partitions {
			_ = p.member.Assign(group, partition)
		}
	}
}

// The changelog does not grow with what has been processed, but with the state.
func TestChangelogIsBounded(t *testing.T) {
	b := framework.NewBroker()
	b.Create("in", 1)
	b.Create("out", 1)
	pipeline := func() *framework.Pipeline {
		p := framework.NewPipeline("shared")
		p.Changelog(framework.Changelog{CopyBytes: 4 << 10})
		framework.To(processors.Fold(framework.From[thing](p, "in"), "count", total{},
			func(c total, e *framework.Event[thing]) (total, error) { return total{e.Key, c.Count + 1}, nil }), "out")
		return p
	}
	a := start(t, b, openStore(t, t.TempDir()), pipeline())
	a.assignAll()
	const log = "shared.in.changelog"
	most := 0
	for i := range 40 {
		b.Append("in", thingRecords((i+1)*200, 20, time.Second)[i*200:]...)
		awaitAll(t, b, "in")
		most = max(most, b.Bytes(log, 0))
	}
	a.end()
	start, end, err := a.member.Span(t.Context(), log, 0)
	if err != nil || start == 0 || most > 40<<10 {
		t.Errorf("the changelog held up to %d bytes; its records are %d to %d: %v", most, start, end, err)
	}
}

// A round of a large state goes over many commits, and is read back in several goes: what is before it is let go of all the
// same.
func TestChangelogOfALargeStateIsTrimmed(t *testing.T) {
	b := framework.NewBroker()
	b.Create("in", 1)
	b.Create("out", 1)
	pipeline := func() *framework.Pipeline {
		p := framework.NewPipeline("shared")
		p.Changelog(framework.Changelog{CopyBytes: 1 << 10})
		framework.To(processors.Fold(framework.From[thing](p, "in"), "last", "",
			func(_ string, e *framework.Event[thing]) (string, error) { return noise(e.Data.N, e.Data.N), nil }), "out")
		return p
	}
	write := func(key string, size int) {
		n := b.Written("in") + 1
		b.Append("in", framework.Record{ID: fmt.Sprint(n), Key: key, Time: noon, Value: fmt.Appendf(nil, `{"n":%d}`, size)})
		awaitAll(t, b, "in")
	}
	const log = "shared.in.changelog"
	one := start(t, b, openStore(t, t.TempDir()), pipeline())
	one.assignAll()
	for i := range 20 {
		write(fmt.Sprint("large", i), 50_000)
	}
	one.end()
	two := start(t, b, openStore(t, t.TempDir()), pipeline())
	two.assignAll()
	two.awaitState(framework.TaskRestored, 1)
	_, taken, err := two.member.Span(t.Context(), log, 0)
	if err != nil {
		t.Fatal(err)
	}
	for deadline, trimmed := time.Now().Add(time.Minute), int64(0); trimmed < taken; {
		write("small", 200)
		if trimmed, _, err = two.member.Span(t.Context(), log, 0); err != nil || time.Now().After(deadline) {
			t.Fatalf("it begins at %d; it was taken over at %d: %v", trimmed, taken, err)
		}
	}
	two.end()
}

// A commit of several megabytes is in the changelog in parts, and is restored.
func TestChangelogOfLargeCommits(t *testing.T) {
	b := framework.NewBroker()
	b.Create("in", 1)
	b.Create("out", 1)
	pipeline := func() *framework.Pipeline {
		p := framework.NewPipeline("shared")
		p.Changelog(framework.Changelog{})
		framework.To(processors.Fold(framework.From[thing](p, "in"), "last", "",
			func(was string, e *framework.Event[thing]) (string, error) {
				if len(was) > 8 {
					was = was[:8]
				}
				if was != "" && was != fmt.Sprintf("%08d", e.Data.N-1) {
					return "", fmt.Errorf("%s before %d", was, e.Data.N)
				}
				return fmt.Sprintf("%08d", e.Data.N) + noise(e.Data.N, 900_000), nil
			}), "out")
		return p
	}
	for i := range 4 {
		a := start(t, b, openStore(t, t.TempDir()), pipeline())
		a.assignAll()
		for range 3 {
			n := b.Written("in") + 1
			b.Append("in", framework.Record{ID: fmt.Sprint(n), Key: "k", Time: noon, Value: fmt.Appendf(nil, `{"n":%d}`, n)})
			awaitAll(t, b, "in")
		}
		a.end()
		b.Delete("in", 0, int64(b.Written("in")))
		if faults := b.Records("shared.faults"); len(faults) > 0 || len(b.Records("out")) != 3*(i+1) {
			t.Fatalf("%d outputs, want %d; %d faults", len(b.Records("out")), 3*(i+1), len(faults))
		}
	}
}

// noise is text that cannot be packed.
func noise(seed, n int) string {
	x := uint64(seed)*2862933555777941757 + 3037000493
	text := make([]byte, n)
	for i := range text {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		text[i] = 'a' + byte(x%26)
	}
	return string(text)
}

// State that a step kept in another form is not made from the changelog.
func TestChangelogOfOtherStates(t *testing.T) {
	b := framework.NewBroker()
	b.Create("in", 1)
	b.Create("out", 1)
	pipeline := func(fold func(p *framework.Pipeline, in *framework.Stream[thing])) *framework.Pipeline {
		p := framework.NewPipeline("shared")
		p.Changelog(framework.Changelog{})
		fold(p, framework.From[thing](p, "in"))
		return p
	}
	a := start(t, b, openStore(t, t.TempDir()), pipeline(func(_ *framework.Pipeline, in *framework.Stream[thing]) {
		framework.To(processors.Fold(in, "fold", 0, func(n int, _ *framework.Event[thing]) (int, error) { return n + 1, nil }), "out")
	}))
	a.assignAll()
	b.Append("in", thingRecords(10, 1, time.Second)...)
	awaitAll(t, b, "in")
	a.end()
	other := start(t, b, openStore(t, t.TempDir()), pipeline(func(_ *framework.Pipeline, in *framework.Stream[thing]) {
		framework.To(processors.Fold(in, "fold", "", func(s string, _ *framework.Event[thing]) (string, error) { return s, nil }), "out")
	}))
	other.assignAll()
	if err := soon(t, other.done); !errors.Is(err, framework.ErrForeignState) || !strings.Contains(err.Error(), `step "fold#0" was fold: `) {
		t.Errorf("Run ended with %v", err)
	}
}

// What a changelog cannot be is found before anything runs.
func TestChangelogIsChecked(t *testing.T) {
	p := framework.NewPipeline("p")
	p.Changelog(framework.Changelog{CopyBytes: -1})
	in := framework.From[thing](p, "in")
	framework.To(in, "p.in.changelog")
	err := p.Validate()
	if err == nil || !strings.Contains(err.Error(), "CopyBytes is -1") {
		t.Error(err)
	}
	p = framework.NewPipeline("p")
	p.Changelog(framework.Changelog{})
	framework.To(framework.From[thing](p, "in"), "p.in.changelog")
	if err := p.Validate(); err == nil || !strings.Contains(err.Error(), "is for the changelog of stage") {
		t.Error(err)
	}
}

// While the changelog cannot be read, a task waits for it; when its partition goes, it goes.
func TestChangelogThatIsAway(t *testing.T) {
	const n = 50
	b := sharedBroker(n)
	a := start(t, b, openStore(t, t.TempDir()), loggedPairs())
	a.assignAll()
	awaitAll(t, b, sharedTopics...)
	a.end()
	deleteProcessed(b)
	c := start(t, b, openStore(t, t.TempDir()), loggedPairs())
	var asked atomic.Int64
	refused := make(chan struct{})
	c.member.Unreadable = func() error { // at the assignment it can be read, and then not for a while
		if n := asked.Add(1); n == 1 || n > 200 {
			return nil
		} else if n == 10 {
			close(refused)
		}
		return framework.Transient(errRefused)
	}
	if err := c.member.Assign(0, 0); err != nil {
		t.Fatal(err)
	}
	<-refused
	c.member.Revoke(t.Context(), 0, 0)
	asked.Store(1000)
	c.assignAll()
	feedPairs(b, n, 2*n)
	awaitAll(t, b, sharedTopics...)
	c.end()
	checkPairs(t, b, 2*n)
	checkCounts(t, b, 2*n)
	if c.states.count(framework.TaskRestored) != sharedPartitions+2 {
		t.Errorf("%d tasks were restored, want %d", c.states.count(framework.TaskRestored), sharedPartitions+2)
	}
}

// A log that ends in the midst of a copy, or in what an owner of earlier has still written, is whole all the same: it may
// be all that there is.
func TestChangelogThatEndsInTheMidst(t *testing.T) {
	const n = 60
	for name, add := range map[string]func(b *framework.Broker, topic string){
		"of a copy": (*framework.Broker).Unfinished, "of an owner that is none": (*framework.Broker).Zombies,
	} {
		t.Run(name, func(t *testing.T) {
			b := sharedBroker(n)
			for range 2 {
				a := start(t, b, openStore(t, t.TempDir()), loggedPairs())
				a.assignAll()
				awaitAll(t, b, sharedTopics...)
				a.end()
				deleteProcessed(b)
			}
			add(b, pairsLog)
			add(b, countsLog)
			last := start(t, b, openStore(t, t.TempDir()), loggedPairs())
			last.assignAll()
			feedPairs(b, n, 2*n)
			last.await(sharedTopics...)
			last.end()
			checkPairs(t, b, 2*n)
			checkCounts(t, b, 2*n)
		})
	}
}

// Copies wait for room in the outbox of the changelog, and what is before them is sent, with and without outputs.
func TestChangelogWithoutRoom(t *testing.T) {
	b := framework.NewBroker()
	b.Create("in", 1)
	b.Create("out", 1)
	p := framework.NewPipeline("a") // before the names of its topics
	p.Changelog(framework.Changelog{CopyBytes: 1})
	counts := processors.Fold(framework.From[thing](p, "in"), "count", total{},
		func(c total, e *framework.Event[thing]) (total, error) { return total{e.Key, c.Count + 1}, nil })
	framework.To(processors.Filter(counts, "some", func(e *framework.Event[total]) bool { return e.Data.Count == 3 }), "out")
	a := start(t, b, openStore(t, t.TempDir()), p, func(c *framework.Config) { c.OutboxBytes = 1 })
	a.assignAll()
	b.Append("in", thingRecords(200, 50, time.Second)...)
	a.await("in")
	a.end()
	if n := len(b.Records("out")); n != 50 {
		t.Errorf("%d outputs, want 50", n)
	}
	if len(b.Records("a.in.changelog")) == 0 {
		t.Error("the changelog has another name")
	}
}

// A log of which records are gone is not taken for the state, and it is said what to do. A process that has the state goes
// on and makes the log whole.
func TestChangelogThatWasCut(t *testing.T) {
	const n = 60
	b := sharedBroker(n)
	dir := t.TempDir()
	one := start(t, b, openStore(t, dir), loggedPairs())
	one.assignAll()
	awaitAll(t, b, sharedTopics...)
	one.end()
	if err := one.store.Close(); err != nil {
		t.Fatal(err)
	}
	type part struct {
		topic     string
		partition int
	}
	begins := map[part]int64{}
	for topic, partitions := range map[string]int{pairsLog: sharedPartitions, countsLog: 2} {
		for p := range partitions {
			_, end, err := one.member.Span(t.Context(), topic, p)
			if err != nil {
				t.Fatal(err)
			}
			b.Delete(topic, p, end-1)
			begins[part{topic, p}] = end - 1
		}
	}
	deleteProcessed(b)
	other := start(t, b, openStore(t, t.TempDir()), loggedPairs())
	other.assignAllOrFail()
	if err := soon(t, other.done); err == nil || !strings.Contains(err.Error(), "no whole copy of the state") || !strings.Contains(err.Error(), "delete the topic") {
		t.Errorf("Run ended with %v", err)
	}
	last := start(t, b, openStore(t, dir), loggedPairs())
	last.assignAll()
	fed := n
	for deadline := time.Now().Add(time.Minute); len(begins) > 0; fed += n { // what is before a new copy is let go of
		if time.Now().After(deadline) {
			t.Fatalf("%v are not copied", begins)
		}
		feedPairs(b, fed, fed+n)
		last.await(sharedTopics...)
		maps.DeleteFunc(begins, func(at part, begin int64) bool {
			start, _, err := last.member.Span(t.Context(), at.topic, at.partition)
			return err == nil && start > begin
		})
	}
	last.end()
	deleteProcessed(b)
	third := start(t, b, openStore(t, t.TempDir()), loggedPairs()) // from the changelog alone
	third.assignAll()
	feedPairs(b, fed, fed+n)
	third.await(sharedTopics...)
	third.end()
	checkPairs(t, b, fed+n)
	checkCounts(t, b, fed+n)
}

// State of a topic that was made anew is refused, and it is said that the changelog has it.
func TestChangelogOfAnotherTopic(t *testing.T) {
	b := sharedBroker(20)
	a := start(t, b, openStore(t, t.TempDir()), loggedPairs())
	a.assignAll()
	awaitAll(t, b, sharedTopics...)
	a.end()
	b.Remove("left")
	b.Create("left", sharedPartitions)
	other := start(t, b, openStore(t, t.TempDir()), loggedPairs())
	other.assignAllOrFail()
	if err := soon(t, other.done); !errors.Is(err, framework.ErrForeignState) || !strings.Contains(err.Error(), "delete the topic \""+pairsLog) {
		t.Errorf("Run ended with %v", err)
	}
}

// A place in a changelog is of one topic: a process that comes back with an older state, and finds another topic of the
// name, does not take it for its own.
func TestChangelogThatWasMadeAnew(t *testing.T) {
	const n = 210
	b := sharedBroker(n)
	dir := t.TempDir()
	ended := func(p *process) {
		t.Helper()
		p.end()
		if err := p.store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	untrimmed := func(c *framework.Config) { c.BatchEvents = n / 8 } // so the state can be made anew from the topics
	one := start(t, b, openStore(t, dir), loggedPairs(), untrimmed)
	one.assignAll()
	awaitAll(t, b, sharedTopics...)
	ended(one)
	b.Anew(pairsLog)
	b.Anew(countsLog)
	larger := func(c *framework.Config) { c.BatchEvents = 100 } // fewer commits than those that the first has
	two := start(t, b, openStore(t, t.TempDir()), copiedOnce(), larger)
	two.assignAll()
	feedPairs(b, n, n+20)
	awaitAll(t, b, sharedTopics...)
	ended(two)
	deleteProcessed(b)
	back := start(t, b, openStore(t, dir), loggedPairs())
	back.assignAll()
	feedPairs(b, n+20, n+40)
	back.await(sharedTopics...)
	ended(back)
	checkPairs(t, b, n+40)
	checkCounts(t, b, n+40)
}

// A group that changes its mind while a task is opened assigns it again; that is no reason to end.
func TestChangelogWhileTheGroupChangesItsMind(t *testing.T) {
	const n = 50
	b := sharedBroker(n)
	a := start(t, b, openStore(t, t.TempDir()), loggedPairs())
	ctx, changed := context.WithCancel(t.Context())
	a.member.Groups() // it has joined
	a.member.Unreadable = func() error {
		changed()
		return ctx.Err()
	}
	if err := a.member.AssignIn(ctx, 0, 0); !errors.Is(err, context.Canceled) {
		t.Fatalf("it is assigned: %v", err)
	}
	a.member.Unreadable = nil
	a.assignAll()
	a.await(sharedTopics...)
	a.end()
	checkPairs(t, b, n)
	checkCounts(t, b, n)
}
