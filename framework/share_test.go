package framework_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
)

// sharedPairs joins two topics by key and event, re-keys the pairs, and numbers those of each new key.
func sharedPairs() *framework.Pipeline {
	p, pairs := justPairs()
	byDigit := processors.ReKey(pairs, "by-digit", func(e *framework.Event[thing]) string { return fmt.Sprint("d", e.Data.N%10) })
	counts := processors.Fold(byDigit, "count", total{}, func(c total, e *framework.Event[thing]) (total, error) {
		return total{e.Key, c.Count + 1}, nil
	})
	framework.To(counts, "counts")
	return p
}

// justPairs is the first stage of it.
func justPairs() (*framework.Pipeline, *framework.Stream[thing]) {
	p := framework.NewPipeline("shared")
	from := func(topic string) *framework.Stream[thing] {
		return framework.From(p, topic, framework.Source[thing]{OutOfOrder: time.Hour})
	}
	number := func(v thing) string { return fmt.Sprint(v.N) }
	pairs := processors.Join(from("left"), from("right"), "pairs", processors.On(number, number),
		processors.Window{Within: time.Hour},
		func(a, _ *framework.Event[thing]) (thing, error) { return a.Data, nil })
	framework.To(pairs, "paired")
	return p, pairs
}

type total struct {
	Key   string `json:"key"`
	Count int    `json:"count"`
}

// process is one member with its store: a process that shares the partitions with others.
type process struct {
	t      testing.TB
	member *framework.Member
	store  *microstore.Store
	runner *framework.Runner
	stop   context.CancelFunc
	done   <-chan error
	states *taskStates
}

// taskStates remembers what hooks tell of tasks.
type taskStates struct {
	sync.Mutex
	all      []framework.TaskInfo
	onCommit func(framework.CommitInfo)
	onTask   func(framework.TaskInfo)
}

func (s *taskStates) OnCommit(i framework.CommitInfo) {
	if s.onCommit != nil {
		s.onCommit(i)
	}
}

func (s *taskStates) OnTask(i framework.TaskInfo) {
	s.Lock()
	defer s.Unlock()
	s.all = append(s.all, i)
	if s.onTask != nil {
		s.onTask(i)
	}
}

func (s *taskStates) count(state framework.TaskState) (n int) {
	s.Lock()
	defer s.Unlock()
	for _, i := range s.all {
		if i.State == state {
			n++
		}
	}
	return n
}

// start starts a process with the state in dir, or none.
func start(t testing.TB, b *framework.Broker, store *microstore.Store, p *framework.Pipeline, change ...func(*framework.Config)) *process {
	t.Helper()
	m := b.Join()
	var calls atomic.Int64
	m.Refuse = func(context.Context) error {
		if calls.Add(1)%4 == 0 {
			return errRefused
		}
		return nil
	}
	pr := &process{t: t, member: m, store: store, states: new(taskStates)}
	config := framework.Config{
		Store: store, Transport: m, InternalPartitions: 2, BatchEvents: 7, Lanes: 2,
		Hooks: []framework.Hook{pr.states}, Retry: framework.Retry{First: time.Millisecond, Most: time.Millisecond},
		StopTimeout: 10 * time.Second,
	}
	for _, f := range change {
		f(&config)
	}
	runner, err := framework.New(config, p)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	pr.runner, pr.stop = runner, stop
	pr.done = run(ctx, t, runner)
	select {
	case <-runner.Ready():
	case err := <-pr.done:
		t.Fatal(err)
	}
	return pr
}

// end stops the process in good order.
func (p *process) end() {
	p.t.Helper()
	p.stop()
	if err := soon(p.t, p.done); err != nil {
		p.t.Error(err)
	}
}

// kill ends it so that nothing it does any more has an effect outside of its store.
func (p *process) kill() {
	p.t.Helper()
	p.member.Kill()
	for group, topics := range p.member.Groups() {
		info, _ := p.member.Topic(context.Background(), topics[0])
		for partition := range info.Partitions {
			p.member.Lose(group, partition)
		}
	}
	p.stop()
	if err := soon(p.t, p.done); err != nil && !errors.Is(err, framework.ErrStopTimeout) {
		p.t.Error(err)
	}
}

const sharedPartitions = 4

func sharedBroker(n int) *framework.Broker {
	b := framework.NewBroker()
	for _, topic := range []string{"left", "right"} {
		b.Create(topic, sharedPartitions)
		b.Create(topic, sharedPartitions)
	}
	for _, topic := range []string{"paired", "counts"} {
		b.Create(topic, 1)
	}
	feedPairs(b, 0, n)
	return b
}

// feedPairs adds pairs from..to, the right ones from the last to the first, so that the two topics run apart.
func feedPairs(b *framework.Broker, from, to int) {
	records := thingRecords(to, 50, time.Second)[from:]
	b.Append("left", records...)
	for i := len(records) - 1; i >= 0; i-- {
		r := records[i]
		r.ID = "right-" + r.ID
		b.Append("right", r)
	}
}

// checkPairs checks that every pair is there, under one id.
func checkPairs(t *testing.T, b *framework.Broker, n int) (duplicates int) {
	t.Helper()
	ids := map[int]string{}
	for _, r := range b.Records("paired") {
		var v thing
		if err := json.Unmarshal(r.Value, &v); err != nil {
			t.Fatal(err)
		}
		switch id, ok := ids[v.N]; {
		case !ok:
			ids[v.N] = r.ID
		case id != r.ID:
			t.Errorf("pair %d has the ids %s and %s", v.N, id, r.ID)
		default:
			duplicates++
		}
	}
	if len(ids) != n {
		t.Errorf("%d pairs, want %d", len(ids), n)
	}
	return duplicates
}

// checkCounts checks that each pair was counted once.
func checkCounts(t *testing.T, b *framework.Broker, n int) {
	t.Helper()
	most, sum := map[string]int{}, 0
	for _, r := range b.Records("counts") {
		var c total
		if err := json.Unmarshal(r.Value, &c); err != nil {
			t.Fatal(err)
		}
		most[c.Key] = max(most[c.Key], c.Count)
	}
	for _, count := range most {
		sum += count
	}
	if sum != n {
		t.Errorf("%d pairs were counted, want %d: %v", sum, n, most)
	}
}

// awaitThat waits until something is so, that nobody tells.
func awaitThat(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// awaitAll waits until the group has marked everything.
func awaitAll(t *testing.T, b *framework.Broker, topics ...string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for b.Behind(topics...) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("the group is %d records behind", b.Behind(topics...))
		}
		time.Sleep(time.Millisecond)
	}
}

var sharedTopics = []string{"left", "right", "shared.by-digit"}

func TestSharedPartitionsMove(t *testing.T) {
	const n = 600
	b := sharedBroker(n / 3)
	a := start(t, b, openStore(t, t.TempDir()), sharedPairs())
	groups := a.member.Groups()
	if len(groups) != 2 || len(groups[0]) != 3 || len(groups[1]) != 2 { // with what is resubmitted
		t.Fatalf("groups %v", groups)
	}
	assign := func(m *framework.Member, group, partition int) {
		t.Helper()
		if err := m.Assign(group, partition); err != nil {
			t.Fatal(err)
		}
	}
	for p := range sharedPartitions {
		assign(a.member, 0, p)
	}
	assign(a.member, 1, 0)
	assign(a.member, 1, 1)
	awaitAll(t, b, sharedTopics...)

	// Half of it moves to a process without state, in good order.
	c := start(t, b, openStore(t, t.TempDir()), sharedPairs())
	for group, p := range []int{2, 1} {
		a.member.Revoke(t.Context(), group, p)
		assign(c.member, group, p)
	}
	feedPairs(b, n/3, 2*n/3)
	awaitAll(t, b, sharedTopics...)
	if got := c.states.count(framework.TaskCaughtUp); got != 2 {
		t.Errorf("%d tasks caught up, want 2", got)
	}
	if got := len(b.Records("paired")); got != 2*n/3 {
		t.Errorf("%d pairs were sent, want %d: the new process repeated what the first had sent", got, 2*n/3)
	}

	// The first one takes everything back, with the state that it left behind.
	c.end()
	for group, p := range []int{2, 1} {
		assign(a.member, group, p)
	}
	feedPairs(b, 2*n/3, n)
	awaitAll(t, b, sharedTopics...)
	a.end()
	if duplicates := checkPairs(t, b, n); duplicates > 0 {
		t.Errorf("%d pairs were sent twice, though every move was in good order", duplicates)
	}
	checkCounts(t, b, n)
}

// Partitions move at random, in good order, by loss and by death, between processes that keep their state or have lost
// it: nothing is lost, nothing is counted twice, and what is sent twice has the same id.
func TestSharedPartitionsUnderFaults(t *testing.T) {
	seeds := 12
	if testing.Short() {
		seeds = 3
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			checkShared(t, sharedUnderFaults(t, uint64(seed), sharedPairs, func(*framework.Broker) {}, sharedTopics...))
		})
	}
}

const faultyEvents = 1500

func checkShared(t *testing.T, b *framework.Broker) {
	t.Helper()
	t.Logf("%d duplicates", checkPairs(t, b, faultyEvents))
	checkCounts(t, b, faultyEvents)
}

func sharedUnderFaults(t *testing.T, seed uint64, pipeline func() *framework.Pipeline, each func(*framework.Broker), reads ...string) *framework.Broker {
	const n, steps = faultyEvents, 40
	random := rand.New(rand.NewPCG(seed, 1))
	b := sharedBroker(n / steps)
	each(b)
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	all := make([]*process, len(dirs))
	stores := make([]*microstore.Store, len(dirs))
	begin := func(i int) {
		if random.IntN(3) == 0 || dirs[i] == "" {
			dirs[i] = t.TempDir() // its disk is gone
		}
		store, err := microstore.Open(microstore.Config{Dir: dirs[i], GCInterval: -1, MemoryBytes: 64 << 20})
		if err != nil {
			t.Fatal(err)
		}
		stores[i] = store
		all[i] = start(t, b, store, pipeline(), func(c *framework.Config) {
			c.BatchEvents, c.Lanes = 1+random.IntN(40), 1+random.IntN(3)
		})
	}
	for i := range all {
		begin(i)
	}
	type place struct{ group, partition int }
	owner := map[place]int{}
	var places []place
	for p := range sharedPartitions {
		places = append(places, place{0, p})
	}
	places = append(places, place{1, 0}, place{1, 1})
	give := func(at place, to int) {
		if err := all[to].member.Assign(at.group, at.partition); err != nil {
			t.Fatal(err, <-all[to].done)
		}
		owner[at] = to
	}
	for _, at := range places {
		give(at, random.IntN(len(all)))
	}
	for step := 1; step < steps; step++ {
		feedPairs(b, n*step/steps, n*(step+1)/steps)
		each(b)
		at := places[random.IntN(len(places))]
		switch random.IntN(4) {
		case 0:
			all[owner[at]].member.Revoke(t.Context(), at.group, at.partition)
			give(at, random.IntN(len(all)))
		case 1:
			all[owner[at]].member.Lose(at.group, at.partition)
			give(at, random.IntN(len(all)))
		case 2:
			dead := random.IntN(len(all))
			all[dead].kill()
			if err := stores[dead].Close(); err != nil {
				t.Fatal(err)
			}
			begin(dead)
			for at, who := range owner {
				if who == dead {
					give(at, random.IntN(len(all)))
				}
			}
		}
	}
	awaitAll(t, b, reads...)
	for i := range all {
		all[i].end()
		if err := stores[i].Close(); err != nil {
			t.Error(err)
		}
	}
	return b
}

// assignAll gives every partition to a process.
func (p *process) assignAll() {
	p.t.Helper()
	for group, topics := range p.member.Groups() {
		info, err := p.member.Topic(p.t.Context(), topics[0])
		if err != nil {
			p.t.Fatal(err)
		}
		for partition := range info.Partitions {
			if err := p.member.Assign(group, partition); err != nil {
				p.t.Fatal(err)
			}
		}
	}
}

// What a process had decided and not sent when it lost its partitions is sent by the next one, and when the partitions
// come back, under the same ids.
func TestLostBacklogIsSentByOthers(t *testing.T) {
	const n = 200
	b := sharedBroker(n)
	first, second := openStore(t, t.TempDir()), openStore(t, t.TempDir())
	a := start(t, b, first, sharedPairs())
	refused := make(chan struct{}, 1)
	a.member.Refuse = func(context.Context) error {
		select {
		case refused <- struct{}{}:
		default:
		}
		return errRefused
	}
	a.assignAll()
	<-refused
	a.kill()
	rows := 0
	for p := range sharedPartitions {
		outbox, err := first.Outbox(fmt.Sprintf("paired@shared/left+right/%d", p))
		if err != nil {
			t.Fatal(err)
		}
		left, _ := outbox.Backlog()
		rows += left
	}
	if rows == 0 {
		t.Fatal("the test has no backlog to look at")
	}
	c := start(t, b, second, sharedPairs())
	c.assignAll()
	awaitAll(t, b, sharedTopics...)
	c.end()
	a = start(t, b, first, sharedPairs())
	a.assignAll()
	feedPairs(b, n, n+50)
	awaitAll(t, b, sharedTopics...)
	a.end()
	checkPairs(t, b, n+50)
	checkCounts(t, b, n+50)
}

// The group's positions do not pass what an earlier run has left in the outbox, though what comes after it causes
// nothing to send.
func TestPositionsWaitForTheBacklog(t *testing.T) {
	const n = 100
	b := sharedBroker(n)
	pairs := func() *framework.Pipeline { p, _ := justPairs(); return p }
	store := openStore(t, t.TempDir())
	always := func(context.Context) error { return errRefused }
	a := start(t, b, store, pairs())
	a.member.Refuse = always
	a.assignAll()
	awaitBacklog(t, store, n)
	a.kill()
	partition := framework.Partition("k1", sharedPartitions)
	before, _ := b.Marked("left", partition) // as far as nothing was caused

	a = start(t, b, store, pairs())
	a.member.Refuse = always
	committed := make(chan struct{}, 10)
	a.states.onCommit = func(i framework.CommitInfo) {
		if i.Topic == "left" {
			committed <- struct{}{}
		}
	}
	a.assignAll()
	for i := range 2 { // when the second is committed, the first has been marked, if it ever is
		b.Append("left", framework.Record{ID: fmt.Sprint("alone-", i), Key: "k1", Time: noon, Value: []byte(`{"n":1000000}`)})
		<-committed
	}
	if at, _ := b.Marked("left", partition); at > before {
		t.Errorf("position %d is marked, where %d was, and nothing has been sent", at, before)
	}
	a.kill()
	c := start(t, b, openStore(t, t.TempDir()), pairs()) // the disk is gone
	c.assignAll()
	awaitAll(t, b, "left", "right")
	c.end()
	checkPairs(t, b, n)
}

// awaitBacklog waits until the outboxes of the first stage hold n pairs.
func awaitBacklog(t *testing.T, store *microstore.Store, n int) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		found := 0
		for p := range sharedPartitions {
			outbox, err := store.Outbox(fmt.Sprintf("paired@shared/left+right/%d", p))
			if err != nil {
				t.Fatal(err)
			}
			rows, err := outbox.Rows(0, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range rows {
				_, n, err := framework.ReadRecords(nil, row.Data, 0, 0)
				if err != nil {
					t.Fatal(err)
				}
				found += int(n)
			}
		}
		if found == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d pairs in the outboxes, want %d", found, n)
		}
		time.Sleep(time.Millisecond)
	}
}
