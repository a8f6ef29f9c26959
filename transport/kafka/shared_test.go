package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/kafka"
)

// ledger stands for the stores of all members: who has which partition, and how far each has come.
type ledger struct {
	t        testing.TB
	together [][]string

	mu        sync.Mutex
	changed   chan struct{}
	owners    map[[2]int]*worker
	positions map[string]int64    // "topic/partition"
	values    map[string][]string // by topic and key
	count     int
	calls     []string       // of Assignments, in order
	alive     map[string]int // batches that are not settled, by topic/partition
}

func newLedger(t testing.TB, together ...[]string) *ledger {
	return &ledger{
		t: t, together: together, changed: make(chan struct{}),
		owners: map[[2]int]*worker{}, positions: map[string]int64{}, values: map[string][]string{}, alive: map[string]int{},
	}
}

func (l *ledger) change() { // the lock is held
	close(l.changed)
	l.changed = make(chan struct{})
}

// await waits until something is so.
func (l *ledger) await(what string, is func() bool) {
	l.t.Helper()
	deadline := time.After(patience)
	for {
		l.mu.Lock()
		ok, changed := is(), l.changed
		l.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			l.mu.Lock()
			defer l.mu.Unlock()
			l.t.Fatalf("not within %s: %s; calls: %v", patience, what, l.calls)
		}
	}
}

func (l *ledger) spread() string { // the lock is held
	counts := map[*worker]int{}
	for _, w := range l.owners {
		counts[w]++
	}
	least, greatest := 1<<30, 0
	for _, n := range counts {
		least, greatest = min(least, n), max(greatest, n)
	}
	return fmt.Sprintf("%d of %d, %d to %d", len(counts), len(l.owners), least, greatest)
}

// worker is a member: it acknowledges what it gets, unless it holds.
type worker struct {
	*ledger
	name       string
	subscriber message.Subscriber
	done       sync.WaitGroup
	slow       bool                  // Revoke takes all of its time
	fault      error                 // that Assign returns
	starts     func() (int64, bool)  // in place of the ledger's positions
	seen       map[[2]int]int        // numbers of batches by topic and partition
	hold       chan *message.Message // takes messages in place of acknowledging, if not nil
	committed  map[string]int64      // what Assign was told last
	errs       chan error
}

func (l *ledger) join(name string, transport *kafka.Transport, change ...func(*worker)) *worker {
	l.t.Helper()
	w := &worker{ledger: l, name: name, seen: map[[2]int]int{}, errs: make(chan error, 100)}
	for _, f := range change {
		f(w)
	}
	var err error
	w.subscriber, err = transport.Subscriber(framework.SubscriberConfig{
		Group: "g-" + l.together[0][0], BatchEvents: 20, BatchBytes: 1 << 20, InFlight: 2, Together: l.together, Assignments: w,
		Start: func(topic string, partition int) (int64, bool) {
			if w.starts != nil {
				return w.starts()
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			position, ok := l.positions[fmt.Sprint(topic, "/", partition)]
			return position, ok
		},
	})
	must(l.t, err)
	l.t.Cleanup(w.leave)
	for _, topics := range l.together {
		for _, topic := range topics {
			messages, err := w.subscriber.Subscribe(context.WithoutCancel(l.t.Context()), topic)
			must(l.t, err)
			w.done.Go(func() {
				for msg := range messages {
					w.take(msg)
				}
			})
		}
	}
	return w
}

func (w *worker) leave() {
	if err := w.subscriber.Close(); err != nil {
		w.t.Error(err)
	}
	w.done.Wait()
}

func (w *worker) groupOf(topic string) int {
	for i, topics := range w.together {
		for _, t := range topics {
			if t == topic {
				return i
			}
		}
	}
	return -1
}

func (w *worker) take(msg *message.Message) {
	b, _ := framework.BatchOf(msg)
	w.mu.Lock()
	defer w.mu.Unlock()
	where := fmt.Sprint(b.Topic, "/", b.Partition)
	if len(b.Records) == 1 && b.Records[0].Err != nil {
		w.errs <- b.Records[0].Err
		msg.Nack()
		return
	}
	if w.owners[[2]int{w.groupOf(b.Topic), b.Partition}] != w {
		w.t.Errorf("%s gets batch %d of %s, which it does not own", w.name, b.Seq, where)
	}
	at := [2]int{0, b.Partition}
	for i, t := range w.together[w.groupOf(b.Topic)] {
		if t == b.Topic {
			at[0] = w.groupOf(b.Topic)*1000 + i
		}
	}
	if int(b.Seq) != w.seen[at] {
		w.t.Errorf("%s: batch %d of %s, expected %d", w.name, b.Seq, where, w.seen[at])
	}
	w.seen[at]++
	if w.hold != nil {
		w.alive[where]++
		w.hold <- msg
		w.change()
		return
	}
	for _, r := range b.Records {
		if r.Offset != w.positions[where] {
			w.t.Errorf("%s: offset %d of %s, the ledger is at %d", w.name, r.Offset, where, w.positions[where])
		}
		w.positions[where] = r.Offset + 1
		w.values[b.Topic+"/"+r.Key] = append(w.values[b.Topic+"/"+r.Key], string(r.Value))
		w.count++
	}
	w.positions[where] = b.Next
	w.subscriber.(framework.Marker).Mark(b.Topic, b.Partition, b.Next)
	w.change()
	msg.Ack()
}

// letGo ends holding; what comes from now on is acknowledged at once.
func (w *worker) letGo() chan *message.Message {
	w.mu.Lock()
	defer w.mu.Unlock()
	held := w.hold
	w.hold = nil
	return held
}

func (w *worker) settle(msg *message.Message, settle func() bool) {
	b, _ := framework.BatchOf(msg)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.alive[fmt.Sprint(b.Topic, "/", b.Partition)]--
	settle()
}

func (w *worker) Assign(_ context.Context, group, partition int, committed map[string]int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, fmt.Sprintf("%s assign %d/%d", w.name, group, partition))
	if w.fault != nil {
		return w.fault
	}
	if owner := w.owners[[2]int{group, partition}]; owner != nil {
		w.t.Errorf("%s is assigned %d/%d, which %s owns", w.name, group, partition, owner.name)
	}
	w.owners[[2]int{group, partition}] = w
	for i, topic := range w.together[group] {
		if n := w.alive[fmt.Sprint(topic, "/", partition)]; n > 0 {
			w.t.Errorf("%s is assigned %s/%d while %d batches of it are alive", w.name, topic, partition, n)
		}
		w.seen[[2]int{group*1000 + i, partition}] = 0
	}
	if w.committed == nil {
		w.committed = map[string]int64{}
	}
	for topic, position := range committed {
		w.committed[fmt.Sprint(topic, "/", partition)] = position
	}
	w.change()
	return nil
}

func (w *worker) end(how string, group, partition int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, fmt.Sprintf("%s %s %d/%d", w.name, how, group, partition))
	if w.owners[[2]int{group, partition}] != w {
		w.t.Errorf("%s is to %s %d/%d, which it does not own", w.name, how, group, partition)
	}
	delete(w.owners, [2]int{group, partition})
	w.change()
}

func (w *worker) Revoke(ctx context.Context, group, partition int) error {
	w.mu.Lock()
	slow := w.slow
	w.mu.Unlock()
	if slow {
		<-ctx.Done()
		w.end("revoke", group, partition)
		return errors.New("too late")
	}
	w.end("revoke", group, partition)
	return nil
}

func (w *worker) Lose(group, partition int) { w.end("lose", group, partition) }

func (l *ledger) called(what string) bool { // the lock is held
	for _, c := range l.calls {
		if strings.HasPrefix(c, what) {
			return true
		}
	}
	return false
}

// Members join and leave while records come: partitions move with their position, partition n of a and b to the same
// member, and each record is processed once and in order. On a fake broker and on a real one.
func TestMembersJoinAndLeave(t *testing.T) {
	cluster := fake(t)
	joinAndLeave(t, kafka.Config{Brokers: cluster.ListenAddrs()}, "")
}

func TestMembersJoinAndLeaveOnBroker(t *testing.T) { joinAndLeave(t, broker(t), own(t)) }

func joinAndLeave(t *testing.T, config kafka.Config, prefix string) {
	transport := open(t, config)
	l := newLedger(t, []string{prefix + "a", prefix + "b"}, []string{prefix + "c"})
	must(t, transport.CreateTopic(t.Context(), prefix+"a", 6))
	must(t, transport.CreateTopic(t.Context(), prefix+"b", 6))
	must(t, transport.CreateTopic(t.Context(), prefix+"c", 3))
	publisher, err := transport.Publisher(framework.PublisherConfig{})
	must(t, err)
	written := 0
	write := func() { // runs beside the members
		for range 20 {
			for _, topic := range []string{"a", "b", "c"} {
				var records []framework.Record
				for i := range 30 {
					records = append(records, framework.Record{ID: "x", Key: fmt.Sprint("k", i), Value: fmt.Append(nil, written)})
				}
				must(t, publisher.Publish(t.Context(), prefix+topic, records))
			}
			written++
		}
	}
	one := l.join("one", transport)
	write()
	l.await("one has all", func() bool { return l.spread() == "1 of 9, 9 to 9" })
	two := l.join("two", transport)
	write()
	three := l.join("three", transport)
	write()
	l.await("three have three each", func() bool { return l.spread() == "3 of 9, 3 to 3" })
	write()
	one.leave()
	write()
	l.await("two are left", func() bool { return strings.HasPrefix(l.spread(), "2 of 9") })
	three.leave()
	write()
	l.await("two has all", func() bool { return l.spread() == "1 of 9, 9 to 9" })
	l.await("all is processed", func() bool { return l.count == written*90 })
	two.leave()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.owners) > 0 || l.called("one lose") || l.called("two lose") || l.called("three lose") {
		t.Errorf("owners at the end: %d; calls: %v", len(l.owners), l.calls)
	}
	for key, values := range l.values {
		for i, v := range values {
			if v != fmt.Sprint(i) {
				t.Fatalf("%s: value %d is %s", key, i, v)
			}
		}
	}
}

// A partition is not given to another before what was delivered of it is settled.
func TestRevokeWaits(t *testing.T) {
	transport, _ := opened(t, 2)
	publish(t, transport, spreadOver(100)...)
	l := newLedger(t, []string{"events"})
	one := l.join("one", transport, func(w *worker) { w.hold = make(chan *message.Message, 100) })
	l.await("one holds batches of both", func() bool { return one.alive["events/0"] > 0 && one.alive["events/1"] > 0 })
	l.join("two", transport)
	l.await("one is to give back", func() bool { return l.called("one revoke") })
	time.Sleep(100 * time.Millisecond) // for what must not happen
	l.mu.Lock()
	if l.called("two assign") {
		t.Errorf("calls: %v", l.calls)
	}
	l.mu.Unlock()
	held := one.letGo()
	for len(held) > 0 {
		msg := <-held
		b, _ := framework.BatchOf(msg)
		one.settle(msg, func() bool { l.positions[fmt.Sprint("events/", b.Partition)] = b.Next; return msg.Ack() })
	}
	l.await("two has one", func() bool { return l.called("two assign") })
}

func spreadOver(n int) []framework.Record {
	records := numbered(0, n)
	for i := range records {
		records[i].Key = fmt.Sprint("k", i)
	}
	return records
}

// What gives a partition back has a part of the rebalance timeout for it; batches that are never settled hold nobody up.
func TestRevokeTakesTooLong(t *testing.T) {
	log := &lines{}
	transport, _ := opened(t, 2, func(c *kafka.Config) {
		c.RebalanceTimeout, c.SessionTimeout, c.Logger = 4*time.Second, 6*time.Second, slog.New(slog.NewTextHandler(log, nil))
	})
	publish(t, transport, spreadOver(100)...)
	l := newLedger(t, []string{"events"})
	one := l.join("one", transport, func(w *worker) { w.hold, w.slow = make(chan *message.Message, 100), true })
	l.await("one holds batches of both", func() bool { return one.alive["events/0"] > 0 && one.alive["events/1"] > 0 })
	l.mu.Lock()
	clear(l.alive) // they stay so
	l.mu.Unlock()
	l.join("two", transport)
	l.await("two goes on", func() bool { return l.called("one revoke") && l.called("two assign") && l.count > 0 })
	for _, want := range []string{"given back with an error", "too late", "neither acknowledged nor refused"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %q: %s", want, log)
		}
	}
	l.mu.Lock()
	one.slow = false
	l.mu.Unlock()
	for held := one.letGo(); len(held) > 0; {
		(<-held).Nack()
	}
}

// The group says that this member is gone: all is lost, and what it then gets is a new assignment.
func TestLost(t *testing.T) {
	transport, cluster := opened(t, 2)
	publish(t, transport, spreadOver(100)...)
	l := newLedger(t, []string{"events"})
	one := l.join("one", transport)
	l.await("all is processed", func() bool { return l.count == 100 })
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID})
	l.await("one has lost both", func() bool { return l.called("one lose 0/0") && l.called("one lose 0/1") })
	l.await("one has both again", func() bool { return len(l.owners) == 2 })
	publish(t, transport, spreadOver(50)...)
	l.await("the rest is processed", func() bool { return l.count == 150 })
	one.leave()
}

// What is marked is committed to the group and told to the next owner, who does not go by it.
func TestMarksAreAdvice(t *testing.T) {
	transport, _ := opened(t, 1)
	publish(t, transport, numbered(0, 100)...)
	l := newLedger(t, []string{"events"})
	one := l.join("one", transport)
	l.await("all is processed", func() bool { return l.count == 100 })
	one.subscriber.(framework.Marker).Mark("another", 0, 5) // passed over
	one.subscriber.(framework.Marker).Mark("events", 7, 5)
	one.leave()
	l.mu.Lock()
	clear(l.positions) // another store
	l.mu.Unlock()
	two := l.join("two", transport)
	l.await("all is processed again", func() bool { return l.count == 200 })
	two.subscriber.(framework.Marker).Mark("events", 0, 50) // passed over: the group is further
	if !maps.Equal(two.committed, map[string]int64{"events/0": 100}) || len(one.committed) > 0 {
		t.Errorf("Assign was told %v and %v", one.committed, two.committed)
	}
	two.leave()
	three := l.join("three", transport)
	l.await("three has it", func() bool { return len(l.owners) == 1 })
	if !maps.Equal(three.committed, two.committed) {
		t.Errorf("Assign was told %v after a lower mark", three.committed)
	}
}

// A partition that cannot be taken over ends in a fatal batch, and is not revoked.
func TestAssignFails(t *testing.T) {
	transport, _ := opened(t, 1)
	l := newLedger(t, []string{"events"})
	broken := errors.New("the store is broken")
	one := l.join("one", transport, func(w *worker) { w.fault = broken })
	select {
	case err := <-one.errs:
		if !errors.Is(err, broken) || framework.ClassOf(err) != framework.ClassFatal || !strings.Contains(err.Error(), `partition 0 of "events"`) {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("no batch tells of it")
	}
	one.leave()
	if l.called("one revoke") || l.called("one lose") {
		t.Errorf("calls: %v", l.calls)
	}

	publish(t, transport, numbered(0, 10)...)
	two := l.join("two", transport, func(w *worker) { w.starts = func() (int64, bool) { return 50, true } })
	select {
	case err := <-two.errs:
		if !strings.Contains(err.Error(), "ends at 10") {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("no batch tells of a position past the end")
	}
	two.leave()
	if !l.called("two revoke") {
		t.Errorf("calls: %v", l.calls)
	}
}

// A group of members that share out otherwise, and topics that do not fit together.
func TestGroupsThatDoNotFit(t *testing.T) {
	transport, cluster := opened(t, 2)
	must(t, transport.CreateTopic(t.Context(), "others", 3))
	l := newLedger(t, []string{"events", "others"})
	for _, test := range []struct {
		change func(*framework.SubscriberConfig)
		topics []string
		want   string
	}{
		{func(c *framework.SubscriberConfig) { c.Group = "" }, nil, "need a Group"},
		{func(c *framework.SubscriberConfig) { c.Together = [][]string{{"a"}, {"a"}} }, nil, `topic "a" is in Together twice`},
		{func(*framework.SubscriberConfig) {}, []string{"nothing"}, "not in SubscriberConfig.Together"},
		{func(*framework.SubscriberConfig) {}, []string{"events", "events"}, "subscribes once"},
		{func(*framework.SubscriberConfig) {}, []string{"events", "others"}, "have 2 and 3 partitions"},
	} {
		config := framework.SubscriberConfig{Group: "g", Together: l.together, Assignments: &worker{ledger: l}}
		test.change(&config)
		subscriber, err := transport.Subscriber(config)
		for _, topic := range test.topics {
			if err == nil {
				_, err = subscriber.Subscribe(t.Context(), topic)
			}
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: expected %q", err, test.want)
		}
		if subscriber != nil {
			must(t, subscriber.Close())
		}
	}
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.JoinGroup}, Err: kerr.InconsistentGroupProtocol, Count: -1})
	l = newLedger(t, []string{"events"})
	one := l.join("one", transport)
	select {
	case err := <-one.errs:
		if !errors.Is(err, kerr.InconsistentGroupProtocol) {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("no batch tells of it")
	}
}
