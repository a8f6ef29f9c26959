package framework_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
)

// timerCrash runs unpaid to the end of its input, so that all windows have closed, while every timer fails.
func timerCrash() mendCrash {
	return mendCrash{"TestTimerCrashChild",
		func(mended bool) *framework.Pipeline { return unpaid(func(string) bool { return !mended }) },
		map[string][]framework.Record{"left": thingRecords(200, 20, time.Second), "right": {}}}
}

// TestTimerCrashChild is the process that dies; it is no test.
func TestTimerCrashChild(t *testing.T) { timerCrash().beChild(t) }

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
	if err := timerCrash().run(calm, true); err != nil {
		t.Fatal(err)
	}
	want := sent(calm)
	dir, killed := t.TempDir(), 0
	for _, mended := range []string{"", "yes"} {
		for _, point := range []string{"commit.before 4", "commit.after 4", "store.commit.before 9", "store.commit.after 9", ""} {
			switch died := timerCrash().child(t, dir, point, mended); {
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
