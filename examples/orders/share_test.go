package orders

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/transport/kafka"
)

func TestProcessesShareTheWork(t *testing.T) {
	shareTheWork(t, services.Kafka(t))
}

func TestProcessesShareTheWorkOfAStandIn(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	testenv.Report("examples/orders", testenv.Kafka, "kfake, in the process")
	shareTheWork(t, strings.Join(cluster.ListenAddrs(), ","))
}

// shareTheWork runs three processes over the same topics. One is killed and comes back with the state that it left
// behind, one stops in good order; the decisions are read from the topics by somebody else, who finds every order
// decided, and an order that is decided twice under one id.
func shareTheWork(t *testing.T, brokers string) {
	const orders = 20_000
	address := "kafka://" + brokers + "?session_timeout=6s&rebalance_timeout=10s&replicas=1"
	prefix := fmt.Sprintf("share-%d.", time.Now().UnixNano())
	dirs := map[string]string{"a": t.TempDir(), "b": t.TempDir(), "c": t.TempDir()}
	begin := func(name string, n int) *instance {
		return startInstance(t, "--transport", address, "--prefix", prefix, "--state", dirs[name], "--orders", fmt.Sprint(n), "--follow")
	}
	a, b, c := begin("a", orders), begin("b", 0), begin("c", 0)
	d := readDecisions(t, brokers, 1, topicsWith(prefix))

	d.await(orders / 5)
	b.end(syscall.SIGKILL)
	d.await(2 * orders / 5)
	b = begin("b", 0)
	d.await(3 * orders / 5)
	c.end(syscall.SIGINT)
	d.await(orders + customers)
	a.end(syscall.SIGINT)
	b.end(syscall.SIGINT)

	d.check(orders)
}

// instance is the example in a process of its own.
type instance struct {
	t      *testing.T
	child  *exec.Cmd
	output bytes.Buffer
	once   sync.Once
}

func startInstance(t *testing.T, args ...string) *instance {
	t.Helper()
	i := &instance{t: t, child: exec.Command(os.Args[0])}
	i.child.Env = append(os.Environ(), childVariable+"="+strings.Join(args, "\n"))
	i.child.Stdout, i.child.Stderr = &i.output, &i.output
	began := time.Now()
	if err := i.child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		i.signal(syscall.SIGCONT) // else it would not end
		if t.Failed() {
			i.end(syscall.SIGQUIT) // to see where it hangs
		}
		i.end(syscall.SIGKILL)
		if t.Failed() { // also by what is found after it has ended
			t.Logf("process %d, begun at %s, %v:\n%s", i.child.Process.Pid, began.Format(time.TimeOnly), i.child.ProcessState, i.output.String())
		}
	})
	return i
}

func (i *instance) signal(s syscall.Signal) { _ = i.child.Process.Signal(s) }

// end ends the process with a signal. It must not have ended before.
func (i *instance) end(signal syscall.Signal) {
	i.once.Do(func() {
		i.signal(signal)
		slow := time.AfterFunc(20*time.Second, func() { i.signal(syscall.SIGQUIT) }) // to see where it hangs
		_ = i.child.Wait()
		slow.Stop()
		if code := i.child.ProcessState.ExitCode(); signal == syscall.SIGINT && code != exitInterrupted || signal == syscall.SIGKILL && code >= 0 {
			i.t.Errorf("exit code %d\n%s", code, i.output.String())
		}
	})
}

// decisions are what the topics say, each order once.
type decisions struct {
	t        *testing.T
	messages chan decision

	made                     map[string]decision // by order, the first of each
	confirmed, unpaid, twice int
}

// decision is a record of one of the topics.
type decision struct {
	framework.Record
	Outcome
	topic     string
	partition int
	read      time.Time
}

func (d *decision) String() string {
	return fmt.Sprintf("%s of %q at %s, caused by %q: %s, partition %d, offset %d, read at %s", d.ID, d.Payment, d.Time.Format(time.TimeOnly),
		d.Causes, d.topic, d.partition, d.Offset, d.read.Format(time.StampMilli))
}

// readDecisions reads the topics of decisions from their beginning.
func readDecisions(t *testing.T, brokers string, replicas int, names topics) *decisions {
	t.Helper()
	transport, err := kafka.New(t.Context(), kafka.Config{Brokers: strings.Split(brokers, ","), Partitions: 4, Replicas: replicas})
	if err != nil {
		t.Fatal(err)
	}
	if err := create(t.Context(), transport, names); err != nil {
		t.Fatal(err)
	}
	d := &decisions{t: t, messages: make(chan decision, 100), made: map[string]decision{}}
	ctx, stop := context.WithCancel(context.Background())
	var reading sync.WaitGroup
	for _, topic := range []string{names.confirmed, names.unpaid} {
		subscriber, err := transport.Subscriber(framework.SubscriberConfig{BatchEvents: 1000, InFlight: 1,
			Start: func(string, int) (int64, bool) { return 0, false }})
		if err != nil {
			t.Fatal(err)
		}
		messages, err := subscriber.Subscribe(ctx, topic)
		if err != nil {
			t.Fatal(err)
		}
		reading.Go(func() {
			defer func() { _ = subscriber.Close() }()
			for {
				select {
				case msg := <-messages:
					b, _ := framework.BatchOf(msg)
					for _, r := range b.Records {
						select {
						case d.messages <- decision{Record: r, topic: b.Topic, partition: b.Partition, read: time.Now()}:
						case <-ctx.Done():
							return
						}
					}
					msg.Ack()
				case <-ctx.Done():
					return
				}
			}
		})
	}
	t.Cleanup(func() {
		stop()
		reading.Wait()
		_ = transport.Close()
	})
	return d
}

// check checks that all orders are decided as they should be.
func (d *decisions) check(orders int) {
	d.t.Helper()
	confirmed, unpaid := expected(orders)
	if int(confirmed)+customers != d.confirmed || int(unpaid) != d.unpaid {
		d.t.Errorf("%d confirmed and %d unpaid, want %d and %d", d.confirmed, d.unpaid, int(confirmed)+customers, unpaid)
	}
	d.t.Logf("%d decisions, and %d were sent twice", len(d.made), d.twice)
}

// await reads until n orders are decided.
func (d *decisions) await(n int) {
	d.t.Helper()
	patience := time.After(3 * time.Minute)
	for len(d.made) < n {
		var r decision
		select {
		case r = <-d.messages:
		case <-patience:
			d.t.Fatalf("%d orders are decided, want %d", len(d.made), n)
		}
		if err := json.Unmarshal(r.Value, &r.Outcome); err != nil {
			d.t.Fatal(err)
		}
		switch first, ok := d.made[r.Order]; {
		case ok && first.ID != r.ID:
			d.t.Errorf("%s is decided twice:\n%v\n%v", r.Order, &first, &r)
		case ok:
			d.twice++
		default:
			d.made[r.Order] = r
			if r.Payment == "" {
				d.unpaid++
			} else {
				d.confirmed++
			}
		}
	}
}
