package kafka_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/kafka"
)

// A member that is none any more, and does not know it yet, may want records that the next owner has let go of. That is
// no error: it hears that it has lost the partition.
func TestRecordsAreGoneWithThePartition(t *testing.T) {
	transport, cluster := opened(t, 1, func(c *kafka.Config) { c.SessionTimeout = 6 * time.Second })
	publish(t, transport, spreadOver(100)...)
	l := newLedger(t, []string{"events"})
	one := l.join("one", transport)
	l.await("all is processed", func() bool { return l.count == 100 })
	gone := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: "events", Err: kerr.OffsetOutOfRange, Count: -1})
	asked := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID, Count: -1,
		When: func(kmsg.Request) bool { return gone.Hits() > 0 }})
	l.await("it has lost the partition", func() bool { return l.called("one lose 0/0") })
	if gone.Hits() == 0 {
		t.Error("no record was gone")
	}
	gone.Remove()
	publish(t, transport, spreadOver(50)...)
	l.await("the rest is processed", func() bool { return l.count == 150 }) // so no answer of before is on its way
	asked.Remove()
	one.leave()
	if len(one.errs) > 0 {
		t.Errorf("it had an error: %v", <-one.errs)
	}
}

// One that has the partition says what is gone.
func TestRecordsAreGoneUnderAMember(t *testing.T) {
	transport, cluster := opened(t, 1)
	publish(t, transport, spreadOver(100)...)
	l := newLedger(t, []string{"events"})
	one := l.join("one", transport)
	l.await("all is processed", func() bool { return l.count == 100 })
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: "events", Err: kerr.OffsetOutOfRange, Count: -1})
	select {
	case err := <-one.errs:
		if framework.ClassOf(err) != framework.ClassFatal || !strings.Contains(err.Error(), "refuse offset 100 of partition 0") {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("no batch tells of it")
	}
	one.leave()

	l.mu.Lock()
	l.positions["events/0"] = 10
	l.mu.Unlock()
	must(t, cluster.DeleteRecords("events", 0, 30))
	two := l.join("two", transport)
	select {
	case err := <-two.errs:
		if framework.ClassOf(err) != framework.ClassFatal || !strings.Contains(err.Error(), "oldest record kept is 30") {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("no batch tells of it")
	}
	two.leave()
}

// A member that makes its state from elsewhere marks what it was to read, before that is read, and it is let go of: reading
// goes on behind it.
func TestRecordsAreGoneThatAreMarked(t *testing.T) {
	for _, when := range []string{"before it asks where to read", "before it reads"} {
		t.Run(when, func(t *testing.T) {
			transport, cluster := opened(t, 1)
			publish(t, transport, spreadOver(100)...)
			l := newLedger(t, []string{"events"})
			letGo := sync.OnceFunc(func() { must(t, cluster.DeleteRecords("events", 0, 100)) })
			one := l.join("one", transport, func(w *worker) {
				w.onAssign = func(int) {
					w.positions["events/0"] = 100
					w.subscriber.(framework.Marker).Mark("events", 0, 100)
					if when == "before it asks where to read" {
						letGo()
					}
				}
				w.starts = func() (int64, bool) { // where the group was
					letGo()
					return 10, true
				}
			})
			publish(t, transport, spreadOver(50)...)
			l.await("the rest is processed, or there is an error", func() bool { return l.count == 50 || len(one.errs) > 0 })
			one.leave()
			if len(one.errs) > 0 {
				t.Errorf("it had an error: %v", <-one.errs)
			}
		})
	}
}

// What nobody has processed is not passed over when it is gone: also not by a process without state, which makes it anew
// from what there is, and could as well begin there.
func TestRecordsAreGoneBeforeAnybodyHadThem(t *testing.T) {
	cluster := fake(t)
	config := kafka.Config{Brokers: cluster.ListenAddrs()}
	sums := newSums(t, config, "")
	stop := run(t, config, "", t.TempDir())
	sums.write(0)
	sums.write(1)
	sums.await(customers)
	stop()
	sums.write(2) // which is gone before anybody comes
	for p := range int32(4) {
		info := cluster.PartitionInfo("orders", p)
		if info.HighWatermark == 0 {
			t.Fatalf("partition %d has no records", p)
		}
		must(t, cluster.DeleteRecords("orders", p, info.HighWatermark))
	}
	store, err := microstore.Open(microstore.Config{Dir: t.TempDir()})
	must(t, err)
	transport := open(t, config)
	runner, err := framework.New(framework.Config{
		Store: store, Transport: transport, Internal: transport, IdleAfter: -1, Logger: slog.New(slog.DiscardHandler),
	}, totals(""))
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := runner.Run(ctx); err == nil || !strings.Contains(err.Error(), "the oldest record kept is") || !strings.Contains(err.Error(), "SkipGone") {
		t.Errorf("a run that passes over records that nobody has processed ends with: %v", err)
	}
	must(t, store.Close())

	config.SkipGone = true
	run(t, config, "", t.TempDir())
	sums.write(3)
	sums.write(4)
	sums.await(2 * customers)
}
