package orders

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/internal/testenv/services"
)

// childVariable holds the arguments of a run in a process of its own, a line each.
const childVariable = "MILLRACE_TEST_ORDERS"

func TestMain(m *testing.M) {
	if args, ok := os.LookupEnv(childVariable); ok {
		ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt)
		os.Exit(Main(ctx, strings.Split(args, "\n"), os.Stdout, os.Stderr))
	}
	// glog's flusher is started by a dependency of Badger when it is loaded, and has no end.
	goleak.VerifyTestMain(services.Main(m), goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

// end runs the example to its end and returns what it prints.
func end(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out, errOut bytes.Buffer
	if code := Main(ctx, args, &out, &errOut); code != 0 {
		t.Fatalf("%q: exit code %d\n%s", args, code, errOut.String())
	}
	return out.String()
}

func answer(orders int) string {
	confirmed, unpaid := expected(orders)
	return fmt.Sprintf("%d orders: %d confirmed, %d not paid in time\n", orders, confirmed, unpaid)
}

func TestEveryOrderIsDecided(t *testing.T) {
	dir := t.TempDir()
	const orders = 3000
	for _, args := range [][]string{{"--transport", "memory:", "--fresh"}, {"--fresh"}, {}} {
		args = append(args, "--orders", fmt.Sprint(orders), "--state", dir)
		if got := end(t, args...); got != answer(orders) {
			t.Errorf("%q: %s", args, got)
		}
	}
	if got := end(t, "--state", t.TempDir(), "--prefix", "other.", "--orders", "40"); got != answer(40) {
		t.Errorf("topics with a prefix: %s", got)
	}
}

// Whoever watches hears how far it is behind, where the transport knows.
func TestBehindIsTold(t *testing.T) {
	for transport, want := range map[string]bool{"embedded:": true, "memory:": false} {
		var out, errOut bytes.Buffer
		code := Main(t.Context(), []string{"--transport", transport, "--fresh", "--state", t.TempDir(), "--orders", "40"}, &out, &errOut)
		if code != 0 || strings.Contains(errOut.String(), " records behind") != want || !strings.Contains(errOut.String(), " unpaid") {
			t.Errorf("%s exit code %d\n%s", transport, code, errOut.String())
		}
	}
}

// Every order and every payment is sent once, and payments of one topic come in the order of time.
func TestFeed(t *testing.T) {
	const orders = 5000
	seen := map[string]bool{}
	latest := time.Time{}
	for i := range orders + customers {
		for _, p := range paymentsAt(i, orders) {
			if seen[p.Order] {
				t.Errorf("%s is paid twice", p.Order)
			}
			if seen[p.Order] = true; p.Captured.Before(latest.Add(-time.Minute)) {
				t.Errorf("the payment of %s comes late: %s after %s", p.Order, p.Captured, latest)
			}
			latest = p.Captured
		}
	}
	if confirmed, unpaid := expected(orders); int(confirmed) != len(seen)-customers || int(unpaid) != orders/unpaidEvery {
		t.Errorf("%d orders are paid, expected %d; %d are not", len(seen)-customers, confirmed, unpaid)
	}
}

// The process is killed at random moments and started again, until it has come to its end.
func TestKilledAtRandomMoments(t *testing.T) {
	const orders, kills = 3000, 8
	dir := filepath.Join(t.TempDir(), "state")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for n := 0; ; n++ {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), childVariable+"="+strings.Join([]string{"--state", dir, "--orders", fmt.Sprint(orders)}, "\n"))
		var out, errOut bytes.Buffer
		child.Stdout, child.Stderr = &out, &errOut
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		if n < kills {
			timer := time.AfterFunc(time.Duration(random.IntN(400))*time.Millisecond, func() { _ = child.Process.Kill() })
			err := child.Wait()
			timer.Stop()
			if err != nil && child.ProcessState.ExitCode() >= 0 {
				t.Fatalf("it ended by itself: %v\n%s", err, errOut.String())
			}
			if err != nil {
				continue
			}
		} else if err := child.Wait(); err != nil {
			t.Fatalf("%v\n%s", err, errOut.String())
		}
		if out.String() != answer(orders) {
			t.Errorf("after %d kills: %s%s", n, out.String(), errOut.String())
		}
		return
	}
}

func TestBadInput(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"--orders", "-1"}, "--orders is -1", exitUsage},
		{[]string{"--state", ""}, "--state is empty", exitUsage},
		{[]string{"--wait", "-1s"}, "--wait is -1s", exitUsage},
		{[]string{"--wait", "1s"}, "--wait is for kafka: addresses, and this one is of embedded: topics", exitUsage},
		{[]string{"--changelog"}, "--changelog is for kafka: addresses, and this one is of embedded: topics", exitUsage},
		{[]string{"more"}, `unexpected argument "more"`, exitUsage},
		{[]string{"--transport", "carrier-pigeon:"}, `"carrier-pigeon:": there is no transport for it`, exitFailed},
		{[]string{"--state", "/dev/null/x"}, "--state /dev/null/x", exitFailed},
	} {
		args := test.args
		if !strings.Contains(strings.Join(args, " "), "--state") {
			args = append([]string{"--state", t.TempDir()}, args...)
		}
		var out, errOut bytes.Buffer
		if code := Main(t.Context(), args, &out, &errOut); code != test.code || !strings.Contains(errOut.String(), test.want) {
			t.Errorf("%q: exit code %d, %s", args, code, errOut.String())
		}
	}
}

// A state that is of another run is refused, whatever is different about it.
func TestStateOfAnotherRun(t *testing.T) {
	dir := t.TempDir()
	end(t, "--state", dir, "--orders", "40")
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--orders", "30"}, "it holds another run, of 40 orders over embedded:, and this one is of 30"},
		{[]string{"--orders", "40", "--transport", "memory:"}, "it holds another run, of 40 orders over embedded:, and this one is of 40 over memory:"},
		{[]string{"--orders", "0", "--transport", "memory:"}, "it holds another run"},
		{[]string{"--orders", "40", "--prefix", "other."}, "that of pipeline count, decide, not of other.count, other.decide"},
	} {
		var out, errOut bytes.Buffer
		code := Main(t.Context(), append(test.args, "--state", dir), &out, &errOut)
		for _, want := range []string{test.want, "--state " + dir, "--fresh"} {
			if code != exitFailed || !strings.Contains(errOut.String(), want) {
				t.Errorf("%q: exit code %d, want %q: %s", test.args, code, want, errOut.String())
			}
		}
	}
	if got := end(t, "--state", dir, "--orders", "40"); got != answer(40) {
		t.Errorf("the run that it holds, once more: %s", got)
	}
	if got := end(t, "--state", dir, "--orders", "30", "--fresh"); got != answer(30) {
		t.Errorf("--fresh: %s", got)
	}
}

func TestDefaultState(t *testing.T) {
	t.Setenv("MILLRACE_STATE", "parent")
	for want, args := range map[string][]string{
		"orders":                 {},
		"orders-embedded-try1":   {"--prefix", "try1."},
		"orders-kafka":           {"--transport", "kafka://localhost:9092"},
		"orders-kafka-try1":      {"--transport", "kafka://localhost:9092", "--prefix", "try1."},
		"orders-kafka-_.._other": {"--transport", "kafka://localhost:9092", "--prefix", "../../other"},
	} {
		o, err := parse(args, t.Output())
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := filepath.Rel("parent", o.state); got != want {
			t.Errorf("%q: %s, want %s", args, o.state, want)
		}
	}
	if o, _ := parse([]string{"--state", "named", "--prefix", "try1."}, t.Output()); o.state != "named" {
		t.Errorf("--state named: %s", o.state)
	}
}
