package kafka_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/kafka"
)

// memberOn starts members of one group, each with a directory that it keeps.
func memberOn(t *testing.T, config kafka.Config, prefix string, change ...func(*memberConfig)) func(name string) *process {
	dirs := map[string]string{}
	member := memberConfig{
		Pipeline: "accounts", Prefix: prefix,
		Address: fmt.Sprintf("kafka://%s?session_timeout=%s&rebalance_timeout=10s&partitions=4", strings.Join(config.Brokers, ","), config.SessionTimeout),
	}
	for _, f := range change {
		f(&member)
	}
	return func(name string) *process {
		t.Helper()
		if dirs[name] == "" {
			dirs[name] = t.TempDir()
		}
		own := member
		own.Dir = dirs[name]
		return startMember(t, name, own)
	}
}

const accountTasks = 8 // two stages of four partitions

// shortSession is the shortest that brokers let in unless they are told otherwise.
const shortSession = 6 * time.Second

func TestStoppedMember(t *testing.T) {
	t.Parallel() // it mostly waits for sessions to end, as the others of processes do
	cluster := fake(t, kfake.GroupMinSessionTimeout(time.Second))
	stoppedMember(t, kafka.Config{Brokers: cluster.ListenAddrs(), SessionTimeout: 2 * time.Second}, "")
}

func TestStoppedMemberOnBroker(t *testing.T) {
	t.Parallel()
	stoppedMember(t, kafka.Config{Brokers: broker(t).Brokers, SessionTimeout: shortSession}, own(t))
}

// One of three processes is stopped as a process, with work in its hands, for longer than its session lasts: the others
// take over. When it goes on, it drops what it had and takes its share again. Then another is killed. Every balance
// comes out, in order and right, and what comes twice has one id: nothing was written by who had not the partition.
func stoppedMember(t *testing.T, config kafka.Config, prefix string) {
	b := newBank(t, config, prefix)
	start := memberOn(t, config, prefix)
	one, two, three := start("one"), start("two"), start("three")
	for _, p := range []*process{one, two, three} {
		p.await("it has a share", func() bool { return len(p.tasks()) > 0 })
	}
	b.feed(50)
	b.await(50)

	b.feed(100)
	two.signal(syscall.SIGSTOP)
	from := two.soFar()
	b.feed(100)
	b.await(250) // the stopped one's too
	for _, p := range []*process{one, three} {
		p.await("it has half of all", func() bool { return len(p.tasks()) == accountTasks/2 })
	}
	two.signal(syscall.SIGCONT)
	two.await("it has lost what it had, and has a share again", func() bool {
		return two.count(from, framework.TaskLost) > 0 && two.count(from, framework.TaskAssigned) > 0 && len(two.tasks()) > 0
	})
	b.feed(50)
	b.await(300)

	b.feed(50)
	three.kill()
	b.feed(50)
	b.await(400)
	one.interrupt()
	b.feed(20)
	b.await(420)
	two.await("it has all", func() bool { return len(two.tasks()) == accountTasks })
	two.interrupt()
	b.check()
}

func TestPartitionsMoveAwayAndBack(t *testing.T) {
	t.Parallel()
	awayAndBack(t, kafka.Config{Brokers: fake(t).ListenAddrs(), SessionTimeout: 30 * time.Second}, "")
}

func TestPartitionsMoveAwayAndBackOnBroker(t *testing.T) {
	t.Parallel()
	awayAndBack(t, kafka.Config{Brokers: broker(t).Brokers, SessionTimeout: 30 * time.Second}, own(t))
}

// Partitions go from one process to another and come back. What the first kept of them is old by then: it neither goes
// by it nor sends anything while it catches up, or balances would be wrong, or come twice.
func awayAndBack(t *testing.T, config kafka.Config, prefix string) {
	b := newBank(t, config, prefix)
	start := memberOn(t, config, prefix)
	one := start("one")
	one.await("it has all", func() bool { return len(one.tasks()) == accountTasks })
	b.feed(50)
	b.await(50)
	for round := range 2 {
		two := start("two") // the second time with what it had kept
		two.await("it has its share", func() bool { return len(two.tasks()) == accountTasks/2 })
		one.await("it has the rest", func() bool { return len(one.tasks()) == accountTasks/2 })
		from := one.soFar()
		b.feed(100)
		b.await(150 + 150*round)
		two.interrupt()
		one.await("it has all again, and has caught up", func() bool {
			return len(one.tasks()) == accountTasks && one.count(from, framework.TaskCaughtUp) == accountTasks/2
		})
		b.feed(50)
		b.await(200 + 150*round)
	}
	one.interrupt()
	b.check()
	if b.duplicates > 0 {
		t.Errorf("%d balances came twice, though all partitions moved in good order", b.duplicates)
	}
}
