package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// schedule is one run of a pipeline under faults: its processes, what is done to them, and what was found.
type schedule struct {
	s        *settings
	in       *input
	plan     []step
	evidence *evidence
	members  []*member

	began      time.Time
	deaths     int // at failpoints
	done       map[action]int
	duplicates int
	faults     int
	problems   []string
}

// result is what is told of a schedule.
type result struct {
	text     string
	problems []string
	dir      string // of the evidence, where there are problems
}

// run runs a schedule. b is nil where no Kafka is needed. An error is one of the machine: it says nothing of guarantees.
func run(ctx context.Context, s settings, b *broker, under string) (result, error) {
	e, err := newEvidence(under, &s)
	if err != nil {
		return result{}, err
	}
	defer e.events.Close()
	s.Broken = e.path("broken")
	sc := &schedule{s: &s, evidence: e, began: time.Now(), done: map[action]int{}}
	s.Prefix = fmt.Sprintf("soak-%d-%d.", s.Seed, sc.began.Unix())
	if b != nil {
		s.Brokers = b.address
	}
	sc.in, sc.plan = newInput(&s), newPlan(&s, b != nil && b.own())
	if err := errors.Join(e.begin(&s, sc.plan, sc.in), s.setBroken(true)); err != nil {
		return result{}, err
	}
	if s.Kind == embeddedKind {
		err = sc.embedded(ctx)
	} else {
		err = sc.shared(ctx, b)
	}
	sc.endAll(syscall.SIGKILL)
	for _, m := range sc.members {
		err = errors.Join(err, m.log.Close())
	}
	if err != nil && !errors.Is(err, errEnded) {
		return result{}, fmt.Errorf("seed %d, evidence in %s: %w", s.Seed, e.dir, err)
	}
	return sc.result(), nil
}

func (sc *schedule) result() result {
	s := sc.s
	r := result{problems: sc.problems}
	verdict := "ok  "
	if len(r.problems) > 0 {
		verdict, r.dir = "FAIL", sc.evidence.dir
	} else {
		_ = os.RemoveAll(sc.evidence.dir)
	}
	var done []string
	for _, a := range slices.Sorted(maps.Keys(sc.done)) {
		done = append(done, fmt.Sprintf("%s %d", a, sc.done[a]))
	}
	r.text = fmt.Sprintf("%s seed %d, %s: %d orders, %d deaths at failpoints, %s; %d duplicates, %d dead letters, %s", verdict, s.Seed, s.Kind,
		s.Orders, sc.deaths, strings.Join(done, ", "), sc.duplicates, sc.faults, time.Since(sc.began).Round(time.Second))
	return r
}

func (sc *schedule) problem(format string, args ...any) {
	sc.problems = append(sc.problems, fmt.Sprintf(format, args...))
	sc.evidence.say("PROBLEM "+format, args...)
}

// add adds a process, and starts it.
func (sc *schedule) add() error {
	name := fmt.Sprint("m", len(sc.members))
	log, err := os.Create(sc.evidence.path(name + ".log"))
	if err != nil {
		return err
	}
	m := &member{name: name, dir: sc.evidence.path(name), log: log}
	sc.members = append(sc.members, m)
	return sc.start(m)
}

func (sc *schedule) start(m *member) error {
	f := fate{}
	if sc.deaths < sc.s.Deaths {
		f = drawFate(sc.s, m.name, m.starts)
	}
	return m.start(sc.s, f)
}

// end ends a process with a signal; it comes back after a time.
func (sc *schedule) end(m *member, signal syscall.Signal, down time.Duration) {
	if err := m.end(signal); err != nil {
		sc.problem("%v", err)
	}
	m.back = time.Now().Add(down)
}

func (sc *schedule) endAll(signal syscall.Signal) {
	for _, m := range sc.members {
		sc.end(m, signal, 0)
	}
}

const tick = 20 * time.Millisecond

// pass lets time go by, and meanwhile starts what is down, and lets go on what stands still.
func (sc *schedule) pass(ctx context.Context, d time.Duration) error {
	for until := time.Now().Add(d); ; {
		if err := sc.tend(); err != nil {
			return err
		}
		left := time.Until(until)
		if left <= 0 {
			return nil
		}
		if err := pause(ctx, min(left, tick)); err != nil {
			return err
		}
	}
}

func (sc *schedule) tend() error {
	now := time.Now()
	for _, m := range sc.members {
		if m.process == nil {
			if now.After(m.back) {
				if err := sc.start(m); err != nil {
					return err
				}
			}
			continue
		}
		m.goOn(now)
		if m.hasEnded() && !sc.finished(m) {
			if err := sc.ended(m, now); err != nil {
				return err
			}
		}
	}
	return nil
}

// errEnded ends a schedule, so that what the process has left stays as it is.
var errEnded = errors.New("a process ended by itself")

// ended notes that a process has ended by itself: by its fate, or it should not have.
func (sc *schedule) ended(m *member, now time.Time) error {
	p := m.process
	m.process, m.back = nil, now
	if !p.struck.Load() {
		sc.problem("ENDED %s by itself: %v, see %s", m.name, p.cmd.ProcessState, m.log.Name())
		return errEnded
	}
	sc.deaths++
	sc.evidence.say("%s has died of %+v", m.name, p.fate)
	m.back = now.Add(p.fate.Down)
	if p.fate.Lose {
		return os.RemoveAll(m.dir)
	}
	return nil
}

// judge reads all that has come, and compares it with what was to come.
func (sc *schedule) judge(ctx context.Context, topics topics) error {
	record, done, err := sc.evidence.outputs()
	if err != nil {
		return err
	}
	c := newChecker(sc.s, sc.in, topics)
	c.record = record
	if err := errors.Join(c.read(ctx), done()); err != nil {
		return err
	}
	for _, problem := range c.verdict() {
		sc.problem("%s", problem)
	}
	sc.duplicates, sc.faults = c.duplicates, c.faults.count
	return nil
}
