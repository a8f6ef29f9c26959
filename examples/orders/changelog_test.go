package orders

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/transport/kafka"
)

func TestChangelogIsAllThereIs(t *testing.T) {
	t.Parallel() // with the other one: they wait for sessions to end
	changelogIsAllThereIs(t, services.Kafka(t))
}

func TestChangelogIsAllThereIsOnAStandIn(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	testenv.Report("examples/orders", testenv.Kafka, "kfake, in the process")
	changelogIsAllThereIs(t, strings.Join(cluster.ListenAddrs(), ","))
}

// Three processes share topics that keep nothing of what is processed: orders that wait for their payments are in the
// processes' directories and in the changelog, and nowhere else. Two processes are killed: one comes back with what it
// had, one has lost its directory. Then the third stands still past its session and goes on. Every order is decided, under
// one id.
func changelogIsAllThereIs(t *testing.T, brokers string) {
	const part, orders = 2000, 3 * 2000
	r := newForgetful(t, brokers, orders)
	a, b, c := r.begin("a"), r.begin("b"), r.begin("c")
	r.awaitMembers(3)
	r.feed(part)
	r.forget()

	r.feed(2 * part)
	b.end(syscall.SIGKILL)
	c.end(syscall.SIGKILL)
	if err := os.RemoveAll(r.dirs["c"]); err != nil {
		t.Fatal(err)
	}
	r.awaitMembers(1)
	r.forget() // the first had to take over for that
	b, c = r.begin("b"), r.begin("c")
	r.awaitMembers(3)

	r.feed(orders)
	a.signal(syscall.SIGSTOP)
	r.awaitMembers(2)
	r.forget()
	a.signal(syscall.SIGCONT)
	r.awaitMembers(3)

	r.feed(orders + customers)
	r.decisions.await(orders + customers)
	for _, i := range []*instance{a, b, c} {
		i.end(syscall.SIGINT)
	}
	r.decisions.check(orders)
}

// forgetful is a run whose topics forget what is processed.
type forgetful struct {
	t         *testing.T
	address   string
	prefix    string
	dirs      map[string]string
	transport *kafka.Transport
	admin     *kadm.Client
	feeder    *feeder
	fed       int // steps
	decisions *decisions
}

func newForgetful(t *testing.T, brokers string, orders int) *forgetful {
	r := &forgetful{
		t: t, address: "kafka://" + brokers + "?session_timeout=6s&rebalance_timeout=10s&replicas=1",
		prefix: fmt.Sprintf("forgetful-%d.", time.Now().UnixNano()), dirs: map[string]string{},
	}
	names := topicsWith(r.prefix)
	r.decisions = readDecisions(t, brokers, 1, names) // it makes the topics
	var err error
	if r.transport, err = kafka.New(t.Context(), kafka.Config{Brokers: strings.Split(brokers, ",")}); err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(brokers, ",")...))
	if err != nil {
		t.Fatal(err)
	}
	publisher, err := r.transport.Publisher(framework.PublisherConfig{})
	if err != nil {
		t.Fatal(err)
	}
	r.admin = kadm.NewClient(client)
	r.feeder = &feeder{publisher: publisher, topics: names, orders: orders, out: t.Output()}
	t.Cleanup(func() {
		client.Close()
		if err := publisher.Close(); err != nil {
			t.Error(err)
		}
		if err := r.transport.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// begin starts a process in the directory that it has had, if that is there.
func (r *forgetful) begin(name string) *instance {
	r.t.Helper()
	if r.dirs[name] == "" {
		r.dirs[name] = r.t.TempDir()
	}
	return startInstance(r.t, "--transport", r.address, "--prefix", r.prefix, "--state", r.dirs[name], "--orders", "0", "--changelog")
}

// feed sends the steps up to one.
func (r *forgetful) feed(to int) {
	r.t.Helper()
	for r.fed < to {
		next := min(r.fed+feedChunk, to)
		if err := r.feeder.send(r.t.Context(), r.fed, next); err != nil {
			r.t.Fatal(err)
		}
		r.fed = next
	}
}

// forget waits until all that was fed is processed, and deletes it.
func (r *forgetful) forget() {
	r.t.Helper()
	names := topicsWith(r.prefix)
	for _, topic := range []string{names.orders, names.payments} {
		for p := range 4 {
			r.await(fmt.Sprintf("partition %d of %s is processed and gone", p, topic), func() (bool, error) {
				start, end, err := r.transport.Span(r.t.Context(), topic, p)
				if err != nil || end == 0 {
					return false, err
				}
				committed, err := r.admin.FetchOffsets(r.t.Context(), r.prefix+"decide")
				if at, ok := committed.Lookup(topic, int32(p)); err != nil || !ok || at.At != end {
					return false, err
				}
				if start < end {
					err = r.transport.Release(topic, p, end)
				}
				return start == end, err
			})
		}
	}
}

// awaitMembers waits until so many processes share the partitions of both pipelines.
func (r *forgetful) awaitMembers(n int) {
	r.t.Helper()
	r.await(fmt.Sprintf("there are %d members", n), func() (bool, error) {
		groups, err := r.admin.DescribeGroups(r.t.Context(), r.prefix+"decide", r.prefix+"count")
		for _, g := range groups {
			if g.State != "Stable" || len(g.Members) != n {
				return false, g.Err
			}
		}
		return err == nil && len(groups) == 2, err
	})
}

// await waits until something is so.
func (r *forgetful) await(what string, is func() (bool, error)) {
	r.t.Helper()
	began := time.Now()
	for {
		ok, err := is()
		switch {
		case ok:
			return
		case time.Since(began) > 3*time.Minute:
			r.t.Fatalf("not within 3 minutes: %s (%v)", what, err)
		}
		time.Sleep(50 * time.Millisecond) // other processes do it
	}
}
