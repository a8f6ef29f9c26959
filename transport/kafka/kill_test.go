package kafka_test

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/kafka"
)

// childVariable makes this binary run the pipeline until it dies: "address directory point nth", and a prefix of names
// if there is one.
const childVariable = "MILLRACE_KAFKA_CHILD"

// child runs totals over a broker and kills itself at a point; it does not return.
func child(arguments string) {
	words := strings.Fields(arguments)
	prefix := strings.Join(words[4:], "")
	nth, _ := strconv.ParseInt(words[3], 10, 64)
	ctx := context.Background()
	fail := func(err error) {
		if err != nil {
			os.Stderr.WriteString("child: " + err.Error() + "\n")
			os.Exit(1)
		}
	}
	transport, err := kafka.New(ctx, kafka.Config{Brokers: []string{words[0]}, SessionTimeout: sessionOfTheKilled})
	fail(err)
	store, err := microstore.Open(microstore.Config{Dir: words[1]})
	fail(err)
	runner, err := framework.New(framework.Config{
		Store: store, Transport: transport, Internal: transport, IdleAfter: -1, BatchEvents: 10, // for many commits
	}, totals(prefix))
	fail(err)
	failpoint.Crash(words[2], nth)
	fail(runner.Run(ctx))
	os.Exit(0)
}

// sessionOfTheKilled is much longer than a test waits: a member that is killed is put out by the next that has its store,
// or partitions stay where nobody reads them.
const sessionOfTheKilled = 5 * time.Minute

// kill -9 at every point around the commit, the sending and the acknowledgement: each sum comes out, whole, and one
// that comes twice has the same id both times. And it comes out at once, for the process that is dead is not waited for.
func TestKill(t *testing.T) {
	killAt(t, kafka.Config{Brokers: fake(t).ListenAddrs()}, "", 2, 9)
}

func TestKillOnBroker(t *testing.T) { killAt(t, broker(t), own(t), 9) }

func killAt(t *testing.T, config kafka.Config, prefix string, nths ...int) {
	config.SessionTimeout = sessionOfTheKilled
	sums := newSums(t, config, prefix)
	dir := t.TempDir()
	minute := 0
	for _, point := range []string{
		"commit.before", "commit.after", "release.before", "release.after", "release.forgotten", "ack.before", "ack.after",
	} {
		for _, nth := range nths {
			sums.write(minute)
			minute++
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			cmd := exec.CommandContext(ctx, os.Args[0])
			cmd.Env = append(os.Environ(), childVariable+"="+strings.Join([]string{config.Brokers[0], dir, point, strconv.Itoa(nth), prefix}, " "))
			cmd.Stderr = os.Stderr
			err := cmd.Run()
			late := ctx.Err()
			cancel()
			if late != nil || err == nil || cmd.ProcessState.ExitCode() != -1 {
				t.Fatalf("%s, %d: the child did not die there: %v", point, nth, err)
			}
		}
	}
	run(t, config, prefix, dir)
	sums.write(minute)
	sums.await(minute * customers)
	sums.check(minute)
}
