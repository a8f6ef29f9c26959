package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/kafka"
)

// outage is a time in which a broker ends the connection with each request. It is over when a log has told often enough
// that somebody waits for it.
type outage struct {
	begun atomic.Bool
	told  atomic.Int64
}

// outageFor is how often a task has to find the broker away.
const outageFor = 3

func (o *outage) of(cluster *kfake.Cluster, begins func(kmsg.Request) bool) {
	cluster.Control(func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if begins(r) { // with the next one
			o.begun.Store(true)
			return nil, nil, false
		}
		if o.begun.Load() && !o.over() {
			return nil, errors.New("away"), true
		}
		return nil, nil, false
	})
}

func (o *outage) over() bool { return o.told.Load() >= outageFor }

// Write makes it the log.
func (o *outage) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("cannot be taken over yet")) {
		o.told.Add(1)
	}
	return len(line), nil
}

func (o *outage) log() *slog.Logger { return slog.New(slog.NewTextHandler(o, nil)) }

// The brokers are away for longer than a transport waits for them, once it is known whose a partition is: it is taken over
// when they are back.
func TestBrokersAwayAtATakeOver(t *testing.T) {
	var o outage
	_, cluster := opened(t, 2) // to make a topic takes longer than the other one waits
	transport := open(t, kafka.Config{Brokers: cluster.ListenAddrs(), Wait: time.Second, Logger: o.log()})
	publish(t, transport, spreadOver(100)...)
	o.of(cluster, func(kmsg.Request) bool { return false })
	l := newLedger(t, []string{"events"})
	w := l.join("one", transport, func(w *worker) { w.onAssign = func(int) { o.begun.Store(true) } })
	l.await("all is processed or fails", func() bool { return l.count == 100 || len(w.errs) > 0 })
	if len(w.errs) > 0 {
		t.Fatal(<-w.errs)
	}
	if !o.over() {
		t.Error("nobody has waited, so this tests nothing")
	}
}

// A partition without a leader holds up neither who takes over another one of its topic, nor what a member has already that
// is given it; when it has a leader, it is read on.
func TestPartitionWithoutLeader(t *testing.T) {
	transport, cluster := opened(t, 2)
	writer := client(t, cluster, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	l := newLedger(t, []string{"events"})
	process := func(partition int) {
		t.Helper()
		where := fmt.Sprint("events/", partition)
		l.mu.Lock()
		at := l.positions[where]
		l.mu.Unlock()
		must(t, writer.ProduceSync(t.Context(), &kgo.Record{Topic: "events", Partition: int32(partition), Value: []byte("x")}).FirstErr())
		l.await("what comes is processed", func() bool { return l.positions[where] > at })
	}
	one := l.join("one", transport)
	l.await("one has both", func() bool { return l.spread() == "1 of 2, 2 to 2" })
	var none *kfake.FaultHandle // the other one has no leader
	has := -1
	l.join("two", transport, func(w *worker) {
		w.onAssign = func(partition int) { // before two asks where it begins
			if has < 0 {
				has = partition
				none = cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata, kmsg.ListOffsets, kmsg.Fetch}, Topic: "events",
					Partitions: []int32{int32(1 - partition)}, Err: kerr.LeaderNotAvailable, Count: -1})
			}
		}
	})
	l.await("two has one", func() bool { return has >= 0 })
	process(has)
	one.leave()
	l.await("two is given the other", func() bool { return l.called(fmt.Sprint("two assign 0/", 1-has)) })
	process(has)
	if none.Hits() == 0 {
		t.Error("nobody has missed the leader, so this tests nothing")
	}
	none.Remove()
	process(1 - has)
	l.mu.Lock()
	defer l.mu.Unlock()
	if spread := l.spread(); spread != "1 of 2, 2 to 2" || l.called("two lose") {
		t.Errorf("%s: %v", spread, l.calls)
	}
}

// A partition without a leader does not hold up those that a member is given with it, nor does one whose task has to wait. When
// it has what it waits for it is read from where it is to be, or fails, also for another member, to which it was given back unread.
func TestPartitionWithoutLeaderAmongOthers(t *testing.T) {
	t.Parallel()
	unknown := func() (int64, bool) { return 0, false }
	for name, c := range map[string]struct {
		next   int64                // that it is to deliver
		starts func() (int64, bool) // what the engine says; nil for where the ledger is
		gone   bool                 // its first record is
		waits  bool                 // the task does
		joins  bool                 // somebody, before the client is told where to read
		moves  bool
		fails  string
	}{
		"from the beginning":   {starts: unknown},
		"from the oldest":      {starts: unknown, gone: true, next: 1},
		"from a position":      {next: 1},
		"past the end":         {next: 3, fails: "is to be read from offset 3, but it ends at 2"},
		"it moves":             {next: 1, moves: true},
		"its task waits":       {next: 1, waits: true},
		"while its task waits": {next: 1, waits: true, moves: true},
		"another joins":        {next: 1, joins: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			transport, cluster := opened(t, 3)
			writer := client(t, cluster, kgo.RecordPartitioner(kgo.ManualPartitioner()))
			for i := range int32(6) {
				must(t, writer.ProduceSync(t.Context(), &kgo.Record{Topic: "events", Partition: i % 3, Value: []byte("x")}).FirstErr())
			}
			if c.gone {
				_, err := kadm.NewClient(writer).DeleteRecords(t.Context(), kadm.Offsets{"events": {0: {Topic: "events", At: 1}}})
				must(t, err)
			}
			l := newLedger(t, []string{"events"})
			l.positions["events/0"] = c.next
			at := func(partition int) int64 { return l.positions[fmt.Sprint("events/", partition)] } // the lock is held
			none := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata, kmsg.ListOffsets, kmsg.Fetch}, Topic: "events",
				Partitions: []int32{0}, Err: kerr.LeaderNotAvailable, Count: -1})
			answered := make(chan struct{})
			one := l.join("one", transport, func(w *worker) {
				w.starts = c.starts
				w.waits = func(ctx context.Context, partition int) error {
					if partition > 0 || !c.waits {
						return nil
					}
					select {
					case <-answered:
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}
			})
			if c.joins {
				l.await("one has all", func() bool { return l.spread() == "1 of 3, 3 to 3" })
				l.join("two", transport)
				l.await("they share", func() bool { return l.spread() == "2 of 3, 1 to 2" })
			}
			l.await("the others are read", func() bool { return at(1) == 2 && at(2) == 2 })
			if c.moves {
				one.leave()
				l.join("two", transport)
				l.await("two has all", func() bool { return l.spread() == "1 of 3, 3 to 3" })
			}
			if none.Hits() == 0 {
				t.Error("nobody has missed the leader, so this tests nothing")
			}
			none.Remove()
			close(answered)
			if c.fails == "" {
				l.await("it is read", func() bool { return at(0) == 2 })
				return
			}
			select {
			case err := <-one.errs:
				if !strings.Contains(err.Error(), c.fails) {
					t.Error(err)
				}
			case <-time.After(patience):
				t.Error("it does not fail")
			}
		})
	}
}

// Brokers are away under a pipeline with a changelog, whose tasks ask for much before they begin: the run goes on.
func TestBrokersAwayUnderAPipeline(t *testing.T) {
	t.Parallel()
	cluster := fake(t)
	config := kafka.Config{Brokers: cluster.ListenAddrs(), CommitInterval: 50 * time.Millisecond}
	b := newBank(t, config, "")
	run := func(config kafka.Config, logger *slog.Logger) (end func()) {
		store, err := microstore.Open(microstore.Config{Dir: t.TempDir()})
		must(t, err)
		config.Logger = logger
		transport := open(t, config)
		runner, err := framework.New(framework.Config{Store: store, Transport: transport, Internal: transport, InternalPartitions: 2,
			IdleAfter: -1, Logger: logger}, logged(""))
		must(t, err)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- runner.Run(ctx) }()
		return func() {
			stop()
			must(t, <-ended)
			must(t, store.Close())
		}
	}
	end := run(config, slog.New(slog.DiscardHandler))
	b.feed(20)
	b.await(20)
	end()

	var o outage
	o.of(cluster, func(r kmsg.Request) bool { return r.Key() == int16(kmsg.OffsetFetch) && !o.begun.Load() })
	config.Wait = time.Second
	end = run(config, o.log())
	for deadline := time.Now().Add(memberPatience); !o.over(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody has waited")
		}
	}
	b.feed(20)
	b.check()
	end()
}
