package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// do does a step of the plan. It returns false when that cannot be done now.
func (sc *schedule) do(ctx context.Context, p step) (bool, error) {
	m := sc.members[p.Member%len(sc.members)]
	switch p.Do {
	case kill, terminate:
		signal := syscall.SIGKILL
		if p.Do == terminate {
			signal = syscall.SIGTERM
		}
		sc.end(m, signal, p.For)
		return true, sc.lose(m, p)
	case cutShort:
		if m.process == nil {
			return false, nil
		}
		_ = m.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		err := pause(ctx, p.For)
		sc.end(m, syscall.SIGKILL, 0)
		return true, err
	case strike:
		for range p.Times {
			sc.end(m, syscall.SIGKILL, 0)
			if err := errors.Join(sc.lose(m, p), sc.pass(ctx, p.For)); err != nil {
				return true, err
			}
		}
		return true, nil
	case killAll:
		for _, m := range sc.members {
			sc.end(m, syscall.SIGKILL, p.For)
		}
		return true, sc.lose(m, p)
	case stop:
		if m.process == nil {
			return false, nil
		}
		return true, m.stop(p.For)
	case join:
		if len(sc.members) > members {
			return false, nil
		}
		return true, sc.add()
	case putBack:
		sc.end(m, syscall.SIGKILL, 0)
		return true, sc.putBack(m)
	case swap:
		other := sc.members[p.Other%len(sc.members)]
		sc.end(m, syscall.SIGKILL, 0)
		sc.end(other, syscall.SIGKILL, 0)
		m.dir, other.dir = other.dir, m.dir
		return true, nil
	case mend, spoil:
		return true, sc.s.setBroken(p.Do == spoil)
	}
	return false, fmt.Errorf("a plan has the step %q, which nobody does", p.Do)
}

func (sc *schedule) lose(m *member, p step) error {
	if !p.Lose {
		return nil
	}
	return os.RemoveAll(m.dir)
}

// putBack copies the directory of a process that is down, and puts what was copied the last time in its place, as where a volume
// is restored.
func (sc *schedule) putBack(m *member) error {
	old, now := m.dir+".old", m.dir+".now"
	err := os.MkdirAll(m.dir, 0o700)
	if err == nil {
		err = copyDir(m.dir, now)
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(old); err == nil {
		sc.evidence.say("what was copied of %s is back", m.name)
		if err := errors.Join(os.RemoveAll(m.dir), os.Rename(old, m.dir)); err != nil {
			return err
		}
	}
	return os.Rename(now, old)
}
