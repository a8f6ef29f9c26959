package kafka_test

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/kafka"
)

// childVariable makes this binary run the pipeline until it dies: "address directory point nth".
const childVariable = "MILLRACE_KAFKA_CHILD"

// child runs totals over a broker and kills itself at a point; it does not return.
func child(arguments string) {
	words := strings.Fields(arguments)
	nth, _ := strconv.ParseInt(words[3], 10, 64)
	ctx := context.Background()
	fail := func(err error) {
		if err != nil {
			os.Stderr.WriteString("child: " + err.Error() + "\n")
			os.Exit(1)
		}
	}
	transport, err := kafka.New(ctx, kafka.Config{Brokers: []string{words[0]}, SessionTimeout: time.Second})
	fail(err)
	store, err := microstore.Open(microstore.Config{Dir: words[1]})
	fail(err)
	runner, err := framework.New(framework.Config{
		Store: store, Transport: transport, Internal: transport, IdleAfter: -1, BatchEvents: 10, // for many commits
	}, totals(""))
	fail(err)
	failpoint.Crash(words[2], nth)
	fail(runner.Run(ctx))
	os.Exit(0)
}

// kill -9 at every point around the commit, the sending and the acknowledgement: each sum comes out, whole, and one
// that comes twice has the same id both times.
func TestKill(t *testing.T) {
	cluster := fake(t, kfake.GroupMinSessionTimeout(time.Second))
	config := kafka.Config{Brokers: cluster.ListenAddrs(), SessionTimeout: time.Second}
	sums := newSums(t, config, "")
	dir := t.TempDir()
	minute := 0
	for _, point := range []string{
		"commit.before", "commit.after", "release.before", "release.after", "release.forgotten", "ack.before", "ack.after",
	} {
		for _, nth := range []int{2, 9} {
			sums.write(minute)
			minute++
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			cmd := exec.CommandContext(ctx, os.Args[0])
			cmd.Env = append(os.Environ(), childVariable+"="+strings.Join([]string{cluster.ListenAddrs()[0], dir, point, strconv.Itoa(nth)}, " "))
			cmd.Stderr = os.Stderr
			err := cmd.Run()
			late := ctx.Err()
			cancel()
			if late != nil || err == nil || cmd.ProcessState.ExitCode() != -1 {
				t.Fatalf("%s, %d: the child did not die there: %v", point, nth, err)
			}
		}
	}
	run(t, config, "", dir)
	sums.write(minute)
	sums.await(minute * customers)
	sums.check(minute)
}
