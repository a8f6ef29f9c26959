package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"
)

// resubmitAgain is how much time goes by until what has not come is resubmitted once more.
const resubmitAgain = 5 * time.Second

// drain waits until all that is due has come. What fails is mended: at once where it could have been at any time, else when all
// that does not fail has come and all that does has failed. Processes still die at failpoints, and are killed beside a
// resubmission.
func (sh *shared) drain(ctx context.Context) error {
	r := rand.New(rand.NewPCG(sh.s.Seed, 5))
	c := newChecker(sh.s, sh.in, sh.transport)
	if sh.s.flips() {
		if err := sh.s.setBroken(false); err != nil {
			return err
		}
	}
	last, since := "", time.Now()
	var asked time.Time // when it was last resubmitted
	for {
		if err := c.read(ctx); err != nil {
			sh.evidence.say("read: %v", err)
		}
		missing := c.missing()
		if len(missing) == 0 || len(c.problems) > 0 {
			return nil // what is wrong now stays wrong
		}
		if text := fmt.Sprint(missing); text != last {
			sh.evidence.say("missing: %s", missing)
			last, since = text, time.Now()
		}
		if time.Since(since) > patience {
			sh.problem("STUCK: nothing has come for %s, and this is missing: %s", patience, missing)
			return nil
		}
		first := asked.IsZero() && (sh.s.flips() || c.settled())
		again := !asked.IsZero() && sh.s.resubmits() && time.Since(asked) > resubmitAgain
		if first || again {
			if err := sh.mendAndResubmit(ctx, r, first, &asked); err != nil {
				return err
			}
		}
		if err := sh.pass(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

// mendAndResubmit resubmits all dead letters; the first time all is mended before. In a part of the cases a process is killed
// meanwhile, where a resubmission that comes twice counts once.
func (sh *shared) mendAndResubmit(ctx context.Context, r *rand.Rand, first bool, asked *time.Time) error {
	if first {
		sh.evidence.say("all is mended")
		if err := sh.s.setBroken(false); err != nil {
			return err
		}
	}
	strike := r.IntN(3) == 0
	victim, after := sh.members[r.IntN(members)], time.Duration(r.IntN(400))*time.Millisecond
	if sh.resubmit(ctx) {
		*asked = time.Now()
	}
	if !strike || !sh.s.resubmits() || sh.done[kill] >= mostKills {
		return nil
	}
	if err := sh.pass(ctx, after); err != nil {
		return err
	}
	sh.evidence.say("kill %s after a resubmission", victim.name)
	sh.end(victim, syscall.SIGKILL, 0)
	sh.done[kill]++
	return nil
}

// mostKills bounds those while what is left comes, or it would not.
const mostKills = 30
