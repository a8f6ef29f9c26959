package framework_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/transport/embedded"
)

// timerCrashRun runs unpaid to the end of its input, so that all windows have closed, while every timer fails; when it is
// mended, with all dead letters that there are.
func timerCrashRun(dir string, mended bool) (err error) {
	store, err := openCrashStore(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	topics, err := embedded.New(store, embedded.Config{Partitions: 1})
	if err != nil {
		return err
	}
	feed := framework.NewFeed(map[string][][]framework.Record{"left": {thingRecords(200, 20, time.Second)}, "right": {{}}})
	feed.Bounded = true
	runner, err := framework.New(framework.Config{
		Store: store, Transport: topics, Lanes: 2, BatchEvents: 20, Routes: map[string]framework.Transport{"left": feed, "right": feed},
	}, unpaid(func(string) bool { return !mended }))
	if err != nil {
		return err
	}
	if mended {
		var faults []framework.Fault
		err := runner.DeadLetters(context.Background(), "p", func(f framework.Fault) error { faults = append(faults, f); return nil })
		if err := errors.Join(err, runner.Resubmit(context.Background(), faults...)); err != nil {
			return err
		}
	}
	return runner.Run(context.Background())
}

// TestTimerCrashChild is the process that dies; it is no test.
func TestTimerCrashChild(t *testing.T) {
	dir, point := os.Getenv("FRAMEWORK_TIMER_DIR"), os.Getenv("FRAMEWORK_TIMER_POINT")
	if dir == "" {
		t.Skip("run by TestKillWhileTimersFail")
	}
	name, nth, _ := strings.Cut(point, " ")
	if n, err := strconv.ParseInt(nth, 10, 64); err == nil {
		failpoint.Crash(name, n)
	}
	if err := timerCrashRun(dir, os.Getenv("FRAMEWORK_TIMER_MENDED") != ""); err != nil {
		t.Fatal(err)
	}
}

// TestKillWhileTimersFail kills a child around commits while all timers fail, and again while they are resubmitted, long
// after their windows have closed. What is sent is what would have been sent had nothing failed: nothing else, nothing is
// missing, and what is sent twice has one id.
func TestKillWhileTimersFail(t *testing.T) {
	sent := func(dir string) (all map[string]string) {
		store, err := openCrashStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		}()
		all = map[string]string{}
		topics := topicsIn(t, store)
		for _, topic := range unpaidTopics {
			if _, err := topics.Topic(t.Context(), topic); err != nil {
				continue
			}
			for _, r := range readTopic(t, topics, topic) {
				all[topic+" "+r.ID] = fmt.Sprintf("%s %s %s", r.Key, r.Time.Format(time.TimeOnly), r.Value)
			}
		}
		return all
	}
	calm := t.TempDir()
	if err := timerCrashRun(calm, true); err != nil {
		t.Fatal(err)
	}
	want := sent(calm)
	dir, killed := t.TempDir(), 0
	child := func(point, mended string) bool {
		c := exec.Command(os.Args[0], "-test.run=^TestTimerCrashChild$")
		c.Env = append(os.Environ(), "FRAMEWORK_TIMER_DIR="+dir, "FRAMEWORK_TIMER_POINT="+point, "FRAMEWORK_TIMER_MENDED="+mended)
		out, err := c.CombinedOutput()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() != -1 {
			t.Fatalf("%s: %v\n%s", point, err, out)
		}
		return err != nil
	}
	for _, mended := range []string{"", "yes"} {
		for _, point := range []string{"commit.before 4", "commit.after 4", "store.commit.before 9", "store.commit.after 9", ""} {
			switch died := child(point, mended); {
			case died && point == "":
				t.Fatal("a child died by itself")
			case died:
				killed++
			}
		}
		if got := len(sent(dir)); mended == "" && got > 0 {
			t.Errorf("%d are sent, though all timers fail", got)
		}
	}
	sameSent(t, sent(dir), want)
	if len(want) < 300 || killed < 4 {
		t.Errorf("%d of 8 children were killed, and %d are to be sent", killed, len(want))
	}
}
