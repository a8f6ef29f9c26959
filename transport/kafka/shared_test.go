package kafka_test

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/kafka"
)

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
	cluster := fake(t, kfake.GroupMinSessionTimeout(time.Second))
	transport := open(t, kafka.Config{Brokers: cluster.ListenAddrs(), SessionTimeout: time.Second}) // so members hear soon
	must(t, transport.CreateTopic(t.Context(), "events", 2))
	publish(t, transport, spreadOver(100)...)
	l := newLedger(t, []string{"events"})
	one := l.join("one", transport, func(w *worker) { w.hold = make(chan *message.Message, 100) })
	l.await("one holds batches of both", func() bool { return one.alive["events/0"] > 0 && one.alive["events/1"] > 0 })
	l.join("two", transport)
	l.await("one is to give back", func() bool { return l.called("one revoke") })
	time.Sleep(time.Second) // for what must not happen
	l.mu.Lock()
	if l.called("two assign") {
		t.Errorf("calls: %v", l.calls)
	}
	l.mu.Unlock()
	one.letGo(true)
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
	l.await("one holds all that it gets of both", func() bool { return one.alive["events/0"] == inFlight && one.alive["events/1"] == inFlight })
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
	one.letGo(false)
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

// The group tells whether one is a member.
func TestMember(t *testing.T) {
	transport, cluster := opened(t, 1)
	l := newLedger(t, []string{"events"})
	one := l.join("one", transport)
	l.await("it has the partition", func() bool { return len(l.owners) == 1 })
	group := one.subscriber.(framework.Generations)
	if is, err := group.Member(t.Context()); err != nil || !is {
		t.Errorf("it is a member: %v: %v", is, err)
	}
	for _, c := range []struct {
		answer *kerr.Error
		want   bool
	}{{kerr.RebalanceInProgress, true}, {kerr.UnknownMemberID, false}, {kerr.FencedInstanceID, false}} {
		fault := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: c.answer, Count: -1})
		if is, err := group.Member(t.Context()); err != nil || is != c.want {
			t.Errorf("%v: it is a member: %v, want %v: %v", c.answer, is, c.want, err)
		}
		fault.Remove()
	}
	fault := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.IllegalGeneration, Count: -1})
	if is, err := group.Member(t.Context()); is || !errors.Is(err, kerr.IllegalGeneration) {
		t.Errorf("a generation that is over: it is a member: %v: %v", is, err)
	}
	fault.Remove()
}

// The group has forgotten this member, and says so only when it joins for a change: all that it had is lost, what it is given
// again too, since another may have had it meanwhile. It leaves the group for that, and does so again when the group's
// coordinator has answered and is replaced by one that does not know of it.
func TestForgotten(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.GroupMinSessionTimeout(time.Second))
	transport := open(t, kafka.Config{Brokers: cluster.ListenAddrs(), SessionTimeout: 6 * time.Second, RebalanceTimeout: 30 * time.Second,
		CommitInterval: 50 * time.Millisecond})
	must(t, transport.CreateTopic(t.Context(), "events", 2))
	publish(t, transport, spreadOver(100)...)
	l := newLedger(t, []string{"events"})
	l.join("one", transport)
	l.await("all is processed", func() bool { return l.count == 100 && len(l.owners) == 2 })
	forget := true // the next join, by which one answers that of two
	cluster.ControlKey(int16(kmsg.JoinGroup), func(r kmsg.Request) (kmsg.Response, error, bool) {
		join := r.(*kmsg.JoinGroupRequest)
		cluster.KeepControl()
		if !forget || join.MemberID == "" || !ownsSomething(join) {
			return nil, nil, false
		}
		forget = false
		response := join.ResponseKind().(*kmsg.JoinGroupResponse)
		response.ErrorCode = kerr.UnknownMemberID.Code
		return response, nil, true
	})
	var leavings atomic.Int64
	cluster.ControlKey(int16(kmsg.LeaveGroup), func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		return r.ResponseKind(), nil, leavings.Add(1) == 1
	})
	l.join("two", transport)
	l.await("they share", func() bool { return l.called("two assign") && l.spread() == "2 of 2, 1 to 1" })
	if leavings.Load() < 2 {
		t.Errorf("one has left %d times", leavings.Load())
	}
	publish(t, transport, spreadOver(100)...)
	l.await("what comes then is processed", func() bool { return l.count == 200 })
	admin := kadm.NewClient(client(t, cluster))
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) { // also of what one has kept
		committed, err := admin.FetchOffsets(t.Context(), "g-events")
		must(t, err)
		sum := int64(0)
		committed.Each(func(o kadm.OffsetResponse) { sum += o.At })
		if sum == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the group's positions are %v", committed)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := map[string]int{}
	for _, call := range l.calls {
		n[call[:len("one lose")]]++
	}
	if n["one lose"] != 2 || n["one assi"] < 3 || l.called("one revoke") {
		t.Errorf("what was given under another name is not lost, or not taken over anew: %v", l.calls)
	}
}

// ownsSomething tells whether a member that joins has partitions.
func ownsSomething(join *kmsg.JoinGroupRequest) bool {
	for _, p := range join.Protocols {
		var metadata kmsg.ConsumerMemberMetadata
		if metadata.ReadFrom(p.Metadata) == nil && len(metadata.OwnedPartitions) > 0 {
			return true
		}
	}
	return false
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
	if !maps.Equal(two.committed, map[string]int64{"events/0": 100}) || len(one.committed) > 0 {
		t.Errorf("Assign was told %v and %v", one.committed, two.committed)
	}
	two.leave()
	l.mu.Lock()
	clear(l.positions)
	l.mu.Unlock()
	three := l.join("three", transport, func(w *worker) { w.hold = make(chan *message.Message, 100) })
	l.await("three has it", func() bool { return l.alive["events/0"] == 2 })
	three.subscriber.(framework.Marker).Mark("events", 0, 50) // passed over: the group is further
	three.letGo(false)
	three.leave()
	four := l.join("four", transport)
	l.await("four has it", func() bool { return len(l.owners) == 1 })
	if !maps.Equal(four.committed, two.committed) {
		t.Errorf("Assign was told %v after a lower mark", four.committed)
	}
}

// What is marked while a partition is taken over is committed, though nothing else comes, and though it is where the
// partition is read on.
func TestMarksOfTakingOver(t *testing.T) {
	transport, cluster := opened(t, 2, func(c *kafka.Config) { c.CommitInterval = 20 * time.Millisecond })
	records := spreadOver(100)
	publish(t, transport, records...)
	l := newLedger(t, []string{"events"})
	want := map[int32]int64{}
	for _, r := range records {
		want[int32(framework.Partition(r.Key, 2))]++
	}
	for partition, at := range want {
		l.positions[fmt.Sprint("events/", partition)] = at // all is in the store
	}
	one := l.join("one", transport, func(w *worker) {
		w.hold = make(chan *message.Message, 100) // nothing that comes is marked
		w.onAssign = func(partition int) { w.subscriber.(framework.Marker).Mark("events", partition, want[int32(partition)]) }
	})
	admin := kadm.NewClient(client(t, cluster))
	deadline := time.Now().Add(patience)
	for {
		committed, err := admin.FetchOffsets(t.Context(), "g-events")
		if !errors.Is(err, kerr.GroupIDNotFound) { // there is none before the first member has joined
			must(t, err)
		}
		got := map[int32]int64{}
		committed.Each(func(o kadm.OffsetResponse) { got[o.Partition] = o.At })
		if maps.Equal(got, want) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the group is at %v, %v is marked", got, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
	one.letGo(true)
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

// A pipeline is in the group of its name, behind what the address says, so that a program's pipelines are in groups of
// their own.
func TestGroupOfAPipeline(t *testing.T) {
	cluster := fake(t)
	config, err := kafka.Parse("kafka://" + cluster.ListenAddrs()[0] + "?group=team")
	must(t, err)
	transport, admin := open(t, config), adminOf(t, cluster.ListenAddrs()...)
	for _, name := range []string{"one", "two"} {
		must(t, transport.CreateTopic(t.Context(), name+"-in", 1))
		must(t, transport.CreateTopic(t.Context(), name+"-out", 1))
		begun(t, transport, passing(name, name+"-in", name+"-out"))
		publisher, err := transport.Publisher(frameworkPublisher)
		must(t, err)
		must(t, publisher.Publish(t.Context(), name+"-in", []framework.Record{{ID: "1", Key: "k", Value: []byte(`{"Amount":1}`)}}))
		take(t, readTopic(t, transport, name+"-out"), 1)
	}
	groups, err := admin.ListGroups(t.Context())
	must(t, err)
	if got, want := groups.Groups(), []string{"team.one", "team.two"}; !slices.Equal(got, want) {
		t.Errorf("groups %q, want %q", got, want)
	}
}
