package main

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/millrace/millrace/microstore"
	transport "github.com/millrace/millrace/transport/embedded"
)

// patience is how long nothing may come that is missing, when nothing is done to the processes any more.
const patience = 4 * time.Minute

// embedded runs a schedule of one process that has everything in its store.
func (sc *schedule) embedded(ctx context.Context) error {
	if err := sc.add(); err != nil {
		return err
	}
	m := sc.members[0]
	if done, err := sc.strikeEmbedded(ctx, m); err != nil {
		return err
	} else if !done {
		sc.evidence.say("nothing more is done to it")
		if err := sc.s.setBroken(false); err != nil {
			return err
		}
		if err := sc.awaitEnd(ctx, m); err != nil {
			return err
		}
	}
	store, err := microstore.Open(microstore.Config{Dir: m.dir})
	if err != nil {
		sc.problem("the store cannot be opened: %v", err)
		return nil
	}
	topics, err := transport.New(store, transport.Config{})
	if err != nil {
		return errors.Join(err, store.Close())
	}
	err = sc.judge(ctx, topics)
	if sc.duplicates > 0 && sc.s.parks() { // without parking, siblings of a part that failed come again
		sc.problem("%d outputs came twice, which go into the store with what causes them", sc.duplicates)
	}
	return errors.Join(err, store.Close())
}

// strikeEmbedded does the plan while the process feeds itself, and tells whether all is there before the end of it.
func (sc *schedule) strikeEmbedded(ctx context.Context, m *member) (done bool, err error) {
	until := sc.began.Add(sc.s.strikeTime())
	for _, p := range sc.plan {
		if time.Now().After(until) {
			return false, nil
		}
		if err := sc.passEmbedded(ctx, m, p.Wait); err != nil {
			return false, err
		}
		if sc.finished(m) {
			return true, nil
		}
		sc.evidence.say("%s", p)
		if _, err := sc.do(ctx, p); err != nil {
			return false, err
		}
		sc.done[p.Do]++
	}
	return false, nil
}

// finished tells whether a process that may end by itself has done so in good order: all is there.
func (sc *schedule) finished(m *member) bool {
	return sc.s.Kind == embeddedKind && m.process != nil && m.hasEnded() && m.cmd.ProcessState.Success()
}

// passEmbedded is pass, until the process has finished.
func (sc *schedule) passEmbedded(ctx context.Context, m *member, d time.Duration) error {
	for until := time.Now().Add(d); time.Now().Before(until) && !sc.finished(m); {
		if err := errors.Join(sc.tend(), pause(ctx, tick)); err != nil {
			return err
		}
	}
	return nil
}

// awaitEnd waits until the process has finished.
func (sc *schedule) awaitEnd(ctx context.Context, m *member) error {
	for until := time.Now().Add(patience + sc.s.feedTime()); !sc.finished(m); {
		if time.Now().After(until) {
			sc.problem("STUCK: not all has come %s after the last fault, see what is missing and the stacks in %s", patience, m.log.Name())
			sc.end(m, syscall.SIGQUIT, 0)
			return nil
		}
		if err := errors.Join(sc.tend(), pause(ctx, tick)); err != nil {
			return err
		}
	}
	return nil
}
