package framework_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/transport/embedded"
)

// mendCrash runs a pipeline of which steps fail, in processes that are killed, and again when they are mended.
type mendCrash struct {
	test     string // that is the process: it calls beChild
	pipeline func(mended bool) *framework.Pipeline
	input    map[string][]framework.Record
}

// run runs the pipeline in dir to its end; when it is mended, with all of its dead letters.
func (c mendCrash) run(dir string, mended bool) (err error) {
	store, err := openCrashStore(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	topics, err := embedded.New(store, embedded.Config{Partitions: 1})
	if err != nil {
		return err
	}
	records, routes := map[string][][]framework.Record{}, map[string]framework.Transport{}
	for topic, all := range c.input {
		records[topic] = [][]framework.Record{all}
	}
	feed := framework.NewFeed(records)
	feed.Bounded = true
	for topic := range c.input {
		routes[topic] = feed
	}
	p := c.pipeline(mended)
	runner, err := framework.New(framework.Config{
		Store: store, Transport: topics, Lanes: 2, BatchEvents: 20, InternalPartitions: 1, Routes: routes,
	}, p)
	if err != nil {
		return err
	}
	if mended {
		var faults []framework.Fault
		err := runner.DeadLetters(context.Background(), p.Name(), func(f framework.Fault) error { faults = append(faults, f); return nil })
		if err := errors.Join(err, runner.Resubmit(context.Background(), faults...)); err != nil {
			return err
		}
	}
	return runner.Run(context.Background())
}

const (
	mendCrashDir    = "FRAMEWORK_MEND_DIR"
	mendCrashPoint  = "FRAMEWORK_MEND_POINT"
	mendCrashMended = "FRAMEWORK_MEND_MENDED"
)

// beChild is the process that dies.
func (c mendCrash) beChild(t *testing.T) {
	dir, point := os.Getenv(mendCrashDir), os.Getenv(mendCrashPoint)
	if dir == "" {
		t.Skip("run as a process of its own")
	}
	name, nth, _ := strings.Cut(point, " ")
	if n, err := strconv.ParseInt(nth, 10, 64); err == nil {
		failpoint.Crash(name, n)
	}
	if err := c.run(dir, os.Getenv(mendCrashMended) != ""); err != nil {
		t.Fatal(err)
	}
}

// child runs a process that dies at "point n", its nth hit, or does not; it tells whether it has died.
func (c mendCrash) child(t *testing.T, dir, point, mended string) (died bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+c.test+"$")
	cmd.Env = append(os.Environ(), mendCrashDir+"="+dir, mendCrashPoint+"="+point, mendCrashMended+"="+mended)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() != -1 {
		t.Fatalf("%s: %v\n%s", point, err, out)
	}
	return err != nil
}
