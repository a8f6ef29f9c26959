package orders

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/testenv"
	"github.com/millrace/millrace/internal/testenv/services"
)

// The broker is not there at the start, is killed while two processes work, is stopped, and then is away for a while:
// every order is decided, and the processes neither end nor grow.
func TestBrokerGoesAway(t *testing.T) {
	const orders = 24_000
	broker := services.OwnKafka(t, services.BrokerConfig{})
	broker.Kill(t)
	address := "kafka://" + broker.Address + "?replicas=1&session_timeout=10s&rebalance_timeout=10s"
	noBroker(t, address)

	begin := func(n int) *instance {
		return startInstance(t, "--transport", address, "--state", t.TempDir(), "--orders", fmt.Sprint(n), "--follow", "--wait", "2m")
	}
	a, b := begin(orders), begin(0)
	broker.Start(t)
	d := readDecisions(t, broker.Address, 1, topicsWith(""))

	d.await(orders / 10)
	broker.Kill(t)
	broker.Start(t)
	d.await(3 * orders / 10)
	broker.Stop(t)
	broker.Start(t)
	d.await(5 * orders / 10)
	before := memory(t, a, b)
	broker.Stop(t)
	away(t, absence, a, b)
	broker.Start(t)
	d.await(orders + customers)
	after := memory(t, a, b)
	a.end(syscall.SIGINT)
	b.end(syscall.SIGINT)

	d.check(orders)
	t.Logf("in memory before it was away %v, after %v", before, after)
}

// noBroker finds no broker, and says so in time.
func noBroker(t *testing.T, address string) {
	t.Helper()
	began := time.Now()
	var out, errOut bytes.Buffer
	code := Main(t.Context(), []string{"--transport", address, "--state", t.TempDir(), "--wait", "2s"}, &out, &errOut)
	if took := time.Since(began); code != exitFailed || took > 30*time.Second {
		t.Errorf("exit code %d after %s", code, took)
	}
	for _, want := range []string{"no broker answers at ", "within 2s", "Config.Wait", "refused"} {
		if !strings.Contains(errOut.String(), want) {
			t.Errorf("%q is not in: %s", want, errOut.String())
		}
	}
}

// absence is how long the broker is away at last: longer than sessions, requests and deliveries are waited for.
const absence = 130 * time.Second

// away is a while in which the processes go on.
func away(t *testing.T, while time.Duration, all ...*instance) {
	t.Helper()
	for end := time.Now().Add(while); time.Now().Before(end); time.Sleep(time.Second) {
		memory(t, all...)
	}
}

// memory is what processes have in memory, in MiB; a process that has ended fails the test.
func memory(t *testing.T, all ...*instance) (each []int64) {
	t.Helper()
	for _, i := range all {
		now, peak, ok := testenv.Memory(i.child.Process.Pid)
		if !ok {
			continue
		}
		if peak > mostMemory {
			t.Fatalf("a process has had %d MiB in memory", peak>>20)
		}
		each = append(each, now>>20)
	}
	return each
}

// One of three brokers is killed while two processes work, the one that all of them were told first: the other two have
// all that was written, and every order is decided without it.
func TestBrokerOfThreeDies(t *testing.T) {
	const orders = 20_000
	cluster := services.OwnKafkaCluster(t, 3)
	var addresses []string
	for _, b := range cluster {
		addresses = append(addresses, b.Address)
	}
	brokers := strings.Join(addresses, ",")
	begin := func(n int) *instance {
		return startInstance(t, "--transport", "kafka://"+brokers+"?replicas=3&session_timeout=10s&rebalance_timeout=10s",
			"--state", t.TempDir(), "--orders", fmt.Sprint(n), "--follow", "--wait", "2m")
	}
	d := readDecisions(t, brokers, 3, topicsWith(""))
	a, b := begin(orders), begin(0)
	d.await(orders / 20)
	cluster[0].Kill(t)
	d.await(orders + customers)
	a.end(syscall.SIGINT)
	b.end(syscall.SIGINT)
	d.check(orders)
}
