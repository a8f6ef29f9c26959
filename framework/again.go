package framework

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/millrace/millrace/internal/watermark"
	"github.com/millrace/millrace/microstore"
)

// resubmission is a row of a task's list of what is to be run again or, where partitions are shared out, a record in a
// topic. It is removed, or passed, in the last commit of what it asks for: so that it is done once, and to its end,
// whatever crashes in between.
type resubmission struct {
	Fault   Fault `json:"fault"`
	Discard bool  `json:"discard,omitempty"`
}

// resubmitName is the outbox with a task's resubmissions: an outbox because it numbers rows and forgets them in a commit.
func resubmitName(task string) string { return "resubmit " + task }

// rerun is a resubmission on its way through its task. Those of one call, and of one key, come in order. It is
// processed between two batches, by the task's own goroutine; nothing new of the key comes in meanwhile, so a parked
// key cannot be chased: when all that waits for it has run, it is released.
type rerun struct {
	resubmission
	seq    int64 // of its row in the store;
	work   *work // or, where partitions are shared out, the batch that brought it,
	offset int64 // its offset, and the position after it
	after  int64
	lane   *Scope
	key    string
	event  *parkedEvent
	tooBig error // what is next does not fit a commit by itself: it is a fault
}

// rerunsACommit bounds how many events of a key are run again in one commit.
const rerunsACommit = 256

// takeResubmitted runs again what has been resubmitted since the last call.
func (t *task) takeResubmitted() (err error) {
	if t.resubmitted, err = t.env.config.Store.Outbox(resubmitName(t.name)); err != nil {
		return Fatal(err)
	}
	for {
		rows, err := t.resubmitted.Rows(t.served, 1<<20)
		if err != nil || len(rows) == 0 {
			return Fatal(err)
		}
		for i := range rows {
			r := &rerun{seq: rows[i].Seq()}
			if err := t.readResubmission(r, rows[i].Data); err != nil {
				return Fatal(fmt.Errorf("resubmission %d: %w", r.seq, err))
			}
			if done, err := t.serve(r); err != nil || !done {
				return err
			}
			t.served = rows[i].Seq()
		}
	}
}

func (t *task) readResubmission(r *rerun, data []byte) (err error) {
	if err := json.Unmarshal(data, &r.resubmission); err != nil {
		return fmt.Errorf("it cannot be read: %w", err)
	}
	r.event, err = t.eventOf(&r.Fault)
	return err
}

// serve does what a resubmission asks for; not done: the engine stops, the rest is for the next run.
func (t *task) serve(r *rerun) (done bool, err error) {
	r.key = r.Fault.Event.Key
	if !r.Fault.Parked && r.event.timer == nil { // it may not have been known
		r.key = t.prepareKept(r.event, t.watermark).arena.header(0).Key
	}
	r.lane = t.laneOf(r.key)
	for most := rerunsACommit; ; {
		select {
		case <-t.stop:
			return false, nil
		default:
		}
		if _, err := t.awaitRoom(); err != nil {
			return false, err
		}
		if done, err := t.serveRound(r, &most); done || err != nil {
			return done, err
		}
	}
}

// serveRound takes at most *most steps and commits them.
func (t *task) serveRound(r *rerun, most *int) (done bool, err error) {
	p := &prepared{work: r.work, advance: t.watermark}
	before := t.progress(p)
	for {
		var c *commit
		if done, err = t.steps(r, *most); err == nil {
			c, err = t.gather(p, 0, 0)
		}
		switch {
		case err == nil:
			r.tooBig = nil
			return done, t.hand(c)
		case !errors.Is(err, microstore.ErrTooBig):
			return false, err
		case *most == 1 && r.tooBig != nil:
			return false, Fatal(fmt.Errorf("what event %q of key %q causes when it is run again does not fit a transaction: %w",
				r.Fault.Event.ID, r.key, err))
		case *most == 1:
			r.tooBig = errTooBigToRun(err)
		}
		*most = max(1, *most/2)
		if err := t.takeBack(p, before); err != nil {
			return false, err
		}
	}
}

// steps goes on with a resubmission, by at most a number of events and timers.
func (t *task) steps(r *rerun, most int) (done bool, err error) {
	s := r.lane
	upTo, exact, err := t.timers.Load(t.watermark, timersARound)
	if err != nil {
		return false, Fatal(err)
	}
	s.fired, s.told = 0, 0
	for n := 0; ; n++ {
		// What was run may have set timers for times that have passed. Those of the key join the ones it sleeps through.
		s.next, s.watermark, s.order = watermark.Min, t.watermark, 0
		if err := t.fire(s, upTo); err != nil {
			return false, err
		}
		switch {
		case upTo < t.watermark || !exact:
			return false, nil
		case done:
			t.finished(r)
			return true, nil
		case n == most:
			return false, nil
		}
		if r.Fault.Parked {
			done, err = t.unpark(s, r)
		} else {
			done, err = true, t.runOnce(s, r)
		}
		if err != nil {
			return false, err
		}
	}
}

// order numbers a resubmission that came through a topic.
func (r *rerun) order() int64 {
	if r.work == nil {
		return 0
	}
	return r.offset + 1
}

// finished notes in the last commit of a resubmission that it has been served.
func (t *task) finished(r *rerun) {
	if r.work == nil {
		t.resubmitted.Remove(r.lane.batch, r.seq)
		return
	}
	r.work.source.next, r.work.source.known = r.after, true
}
