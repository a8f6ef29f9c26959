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

func TestTrimmedTopic(t *testing.T) {
	t.Parallel()
	cluster := fake(t, kfake.GroupMinSessionTimeout(time.Second))
	trimmedTopic(t, kafka.Config{Brokers: cluster.ListenAddrs(), SessionTimeout: 2 * time.Second}, "")
}

func TestTrimmedTopicOnBroker(t *testing.T) {
	t.Parallel()
	trimmedTopic(t, kafka.Config{Brokers: broker(t).Brokers, SessionTimeout: shortSession}, own(t))
}

// What three processes with a changelog are done with leaves the topic between their stages while they run. One of them is
// stopped as a process for so long that what it would read next is gone, and goes on; one is killed, and comes back
// without its disk; in the end one is left that has never had most of it. Every balance comes out, in order and right.
func trimmedTopic(t *testing.T, config kafka.Config, prefix string) {
	b := newBank(t, config, prefix)
	transport := open(t, config)
	keeping := memberOn(t, config, prefix, func(c *memberConfig) {
		c.Pipeline, c.BatchEvents = "logged", 10
		c.Address += "&commit_interval=100ms"
	})
	one, two, three := keeping("one"), keeping("two"), keeping("three")
	for _, p := range []*process{one, two, three} {
		p.await("it has a share", func() bool { return len(p.tasks()) > 0 })
	}
	feed := func() {
		b.feed(10)
		b.await(b.fed)
	}
	spans := func() (starts, ends [4]int64) {
		for p := range starts {
			var err error
			starts[p], ends[p], err = transport.Span(t.Context(), prefix+"accounts.again", p)
			must(t, err)
		}
		return starts, ends
	}
	feed()
	two.await("it reads the topic between the stages", func() bool { return strings.Contains(fmt.Sprint(two.tasks()), "accounts.again") })
	two.signal(syscall.SIGSTOP)
	from := two.soFar()
	_, stopped := spans()
	deadline := time.Now().Add(memberPatience)
	for gone := 0; gone < len(stopped); {
		if time.Now().After(deadline) {
			starts, ends := spans()
			t.Fatalf("the topic goes from %v to %v, and nothing of it has been let go of since %v", starts, ends, stopped)
		}
		feed()
		gone = 0
		starts, _ := spans()
		for p := range starts {
			if starts[p] > stopped[p] {
				gone++
			}
		}
	}
	two.signal(syscall.SIGCONT)
	two.await("it has lost what it had, and has a share again", func() bool {
		return two.count(from, framework.TaskLost) > 0 && two.count(from, framework.TaskAssigned) > 0 && len(two.tasks()) > 0
	})
	feed()
	three.kill()
	fresh := keeping("three without its disk")
	fresh.await("it has a share", func() bool { return len(fresh.tasks()) > 0 })
	feed()
	one.interrupt()
	two.interrupt()
	fresh.await("it has all", func() bool { return len(fresh.tasks()) == accountTasks })
	feed()
	fresh.interrupt()
	b.check()
	starts, ends := spans()
	t.Logf("%s from %v to %v", fmt.Sprint(prefix, "accounts.again"), starts, ends)
}
