package kafka_test

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/framework"
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
