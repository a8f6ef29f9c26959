package main

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// action is what a step of a plan does.
type action string

const (
	kill      action = "kill"      // kill -9
	terminate action = "terminate" // SIGTERM
	cutShort  action = "cut short" // SIGTERM, and kill -9 while it ends
	strike    action = "strike"    // kill -9 again and again, while it starts
	killAll   action = "kill all"
	stop      action = "stop"     // SIGSTOP, for less than a session or for more
	join      action = "join"     // one more process
	putBack   action = "put back" // its directory is copied, and the copy of the last time takes its place
	swap      action = "swap"     // two processes' directories

	killBroker   action = "kill the broker"
	stopBroker   action = "stop the broker"
	freezeBroker action = "freeze the broker"

	resubmit action = "resubmit"
	mend     action = "mend"   // what is to fail does no more
	spoil    action = "break"  // it does again
	release  action = "delete" // what the group has processed, from the sources' topics
)

// step is one fault of a plan. What it does not say is drawn when the plan is made, so that the same seed gives the same.
type step struct {
	Wait   time.Duration // before it
	Do     action
	Member int           // and Other, by number
	Other  int           `json:",omitempty"`
	For    time.Duration // it is down, or stands still
	Lose   bool          // its directory is gone meanwhile
	Times  int           `json:",omitempty"`
}

func (p step) String() string {
	text := fmt.Sprintf("%s m%d", p.Do, p.Member)
	switch p.Do {
	case swap:
		text += fmt.Sprintf(" and m%d", p.Other)
	case strike:
		text += fmt.Sprintf(" %d times", p.Times)
	case killAll, join, killBroker, stopBroker, freezeBroker, resubmit, mend, spoil, release:
		text = string(p.Do)
	}
	if p.For > 0 {
		text += fmt.Sprintf(" for %s", p.For)
	}
	if p.Lose {
		text += ", without its directory"
	}
	return text
}

const (
	members   = 3
	planSteps = 100 // more than there is time for
)

// newPlan is what is done from outside while the input is fed. ownBroker: there is a broker that may be stopped.
func newPlan(s *settings, ownBroker bool) []step {
	r := rand.New(rand.NewPCG(s.Seed, 3))
	actions := []action{kill, kill, terminate, cutShort, cutShort, strike, strike}
	if s.Kind != embeddedKind {
		actions = append(actions, kill, killAll, stop, stop, join, putBack, putBack, putBack, swap, swap)
		if s.logs() {
			actions = append(actions, release, release)
		}
		if ownBroker {
			actions = append(actions, killBroker, stopBroker, freezeBroker)
		}
		if s.flips() {
			actions = append(actions, resubmit)
		}
	}
	if s.flips() {
		actions = append(actions, mend, spoil)
	}
	var plan []step
	for range planSteps {
		plan = append(plan, drawStep(s, r, pick(r, actions...)))
	}
	return plan
}

func drawStep(s *settings, r *rand.Rand, do action) step {
	count := members
	if s.Kind == embeddedKind {
		count = 1
	}
	p := step{Wait: time.Duration(20+r.IntN(s.Pause)) * time.Millisecond, Do: do, Member: r.IntN(count)}
	switch do {
	case kill, terminate, killAll:
		p.For = time.Duration(pick(r, 0, 0, 1, 8)) * time.Second // 8: others take over
		p.Lose = s.Kind != embeddedKind && r.IntN(3) == 0
	case cutShort:
		p.For = time.Duration(r.IntN(400)) * time.Millisecond
	case strike:
		p.Times = 2 + r.IntN(6)
		p.For = time.Duration(pick(r, 20+r.IntN(200), 100+r.IntN(1500))) * time.Millisecond // before its store is open, and after
		p.Lose = s.Kind != embeddedKind && r.IntN(6) == 0
	case stop:
		p.For = pick(r, time.Duration(500+r.IntN(2500))*time.Millisecond, session+time.Duration(1000+r.IntN(3000))*time.Millisecond)
	case swap:
		p.Other = (p.Member + 1 + r.IntN(count-1)) % count
	case killBroker, stopBroker:
		p.For = time.Duration(pick(r, 0, 0, 4)) * time.Second
	case freezeBroker:
		p.For = time.Duration(r.IntN(4000)) * time.Millisecond
	}
	return p
}
