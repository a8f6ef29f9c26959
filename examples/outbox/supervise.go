package outbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// process is a part that runs.
type process struct {
	part   string
	cmd    *exec.Cmd
	exited chan error
}

func start(o options, part string) (*process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "outbox", "-part", part, "-state", o.state, "-orders", strconv.Itoa(o.orders), "-postgres", o.postgres)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{part, cmd, make(chan error, 1)}
	go func() { p.exited <- cmd.Wait() }()
	return p, nil
}

// supervise runs the parts until every order has an invoice, and starts again what it has killed.
func supervise(ctx context.Context, o options) (killed int, err error) {
	running := map[string]*process{}
	defer func() { err = errors.Join(err, stop(running)) }()
	for part := range parts {
		if running[part], err = start(o, part); err != nil {
			return killed, err
		}
	}
	for shopping := true; ; {
		wait(ctx, time.Duration(10+rand.IntN(60))*time.Millisecond)
		if ctx.Err() != nil {
			return killed, fmt.Errorf("stopped before the end: %w", ctx.Err())
		}
		for part, p := range running {
			select {
			case exit := <-p.exited:
				delete(running, part)
				if exit != nil {
					return killed, fmt.Errorf("%s has failed: %w", part, exit)
				}
				if part != "shop" {
					return killed, fmt.Errorf("%s has ended before it was told to", part)
				}
				shopping = false
			default:
			}
		}
		if o.crash && killed < o.kills {
			if err := crash(o, running); err != nil {
				return killed, err
			}
			killed++
			continue
		}
		if shopping {
			continue
		}
		if ok, err := done(ctx, o); err != nil || ok {
			return killed, err
		}
	}
}

// crash kills one of the parts and starts it again.
func crash(o options, running map[string]*process) error {
	for part, p := range running { // the order of a map is random
		if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		if exit := <-p.exited; exit == nil && part == "shop" {
			p.exited <- nil // it was quicker
			return nil
		}
		var err error
		running[part], err = start(o, part)
		return err
	}
	return nil
}

// stop ends the parts in good order.
func stop(running map[string]*process) (err error) {
	for _, p := range running {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	}
	for part, p := range running {
		exit := <-p.exited
		var status *exec.ExitError
		if errors.As(exit, &status) && !status.Exited() {
			continue // it was too early for it to take the signal
		}
		if exit != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", part, exit))
		}
	}
	return err
}
