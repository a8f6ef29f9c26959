package orders

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/millrace/millrace/framework"
)

// refusing refuses with one error after the other, and then takes records.
type refusing struct {
	errs  []error
	taken int
}

func (r *refusing) Publish(_ context.Context, _ string, records []framework.Record) error {
	if len(r.errs) > 0 {
		err := r.errs[0]
		r.errs = r.errs[1:]
		return err
	}
	r.taken += len(records)
	return nil
}

func (r *refusing) Close() error { return nil }

// A publisher that is away is waited for, in whatever words it says so, and that is told; one that lets nobody in is not.
func TestFeedTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := &refusing{errs: []error{errors.New("the database system is shutting down"), framework.Transient(errors.New("away"))}}
		f := &feeder{publisher: p, out: &out}
		records := make([]framework.Record, 3)
		if err := f.publish(t.Context(), "orders", records); err != nil || p.taken != len(records) {
			t.Errorf("%v, and %d records are taken", err, p.taken)
		}
		if told := strings.Count(out.String(), "sending is tried again"); told != 2 || !strings.Contains(out.String(), "shutting down") {
			t.Errorf("told %d times: %s", told, out.String())
		}

		locked := errors.New("no right to write")
		p.errs = []error{framework.Fatal(locked), nil}
		if err := f.publish(t.Context(), "orders", records); !errors.Is(err, locked) {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		p.errs = []error{errors.New("away"), nil}
		if err := f.publish(ctx, "orders", records); err == nil || len(p.errs) != 1 {
			t.Errorf("stopped: %v", err)
		}
	})
}

// What is left of states that are made anew is told until they are there.
func TestRebuildingIsTold(t *testing.T) {
	r := newRebuilding()
	tell := func(task string, state framework.TaskState, behind, target int64) {
		r.OnTask(framework.TaskInfo{Task: task, State: state, Behind: behind, Target: target})
	}
	want := func(text string) {
		t.Helper()
		if got := r.String(); got != text {
			t.Errorf("%q, want %q", got, text)
		}
	}
	tell("a", framework.TaskAssigned, 0, 100)
	want("")
	tell("a", framework.TaskRestoring, 90, 100)
	tell("b", framework.TaskCatchingUp, 25, 50)
	want("; making the state of 2 partitions anew, 115 of 150 records left")
	tell("a", framework.TaskRestored, 0, 100)
	want("; making the state of 1 partitions anew, 25 of 50 records left")
	tell("b", framework.TaskCaughtUp, 0, 50)
	want("")
}
