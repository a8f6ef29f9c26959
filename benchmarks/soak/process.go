package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// member is a process of the pipeline and its directory, which outlives it: it is killed and started again and again.
type member struct {
	name, dir string
	log       *os.File
	starts    int
	*process            // nil: it is down
	back      time.Time // when it is to be started, if it is down
}

// process is one life of a member.
type process struct {
	cmd  *exec.Cmd
	fate fate
	// done is closed when it has ended.
	done chan struct{}
	// struck is set when its fate has befallen it; stands is when one that stands still goes on, in nanoseconds of Unix time.
	struck atomic.Bool
	stands atomic.Int64
}

// start begins another life of a member.
func (m *member) start(s *settings, f fate) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	text, err := json.Marshal(told{Settings: *s, Dir: m.dir, Fate: f})
	if err != nil {
		return err
	}
	m.starts++
	fmt.Fprintf(m.log, "=== start %d at %s, fate %+v\n", m.starts, time.Now().Format(clock), f)
	p := &process{cmd: exec.Command(self), fate: f, done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), memberEnv+"="+string(text), "GOTRACEBACK=all")
	out := &lines{to: m.log, hear: p.hear}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in its state
		close(p.done)
	}()
	m.process = p
	return nil
}

// hear hears a line that the process writes.
func (p *process) hear(line string) {
	switch {
	case strings.HasPrefix(line, dies):
		p.struck.Store(true)
	case strings.HasPrefix(line, stands):
		p.stands.Store(time.Now().Add(p.fate.Stop).UnixNano())
	}
}

// stop makes the process stand still for a time.
func (p *process) stop(d time.Duration) error {
	p.stands.Store(time.Now().Add(d).UnixNano())
	return p.cmd.Process.Signal(stopSignal)
}

// goOn lets a process go on that has stood still for long enough.
func (p *process) goOn(now time.Time) {
	if at := p.stands.Load(); at != 0 && now.UnixNano() >= at && p.stands.CompareAndSwap(at, 0) {
		_ = p.cmd.Process.Signal(continueSignal) // it may have ended
	}
}

func (p *process) hasEnded() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// endPatience is how long a process may take to end when it is asked to.
const endPatience = 2 * time.Minute

// end ends the process with a signal. An error says that it did not end as it should; then it is gone all the same.
func (m *member) end(signal syscall.Signal) error {
	p := m.process
	if p == nil {
		return nil
	}
	m.process = nil
	if p.stands.Swap(0) != 0 {
		_ = p.cmd.Process.Signal(continueSignal)
	}
	_ = p.cmd.Process.Signal(signal) // it may have ended
	select {
	case <-p.done:
	case <-time.After(endPatience):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // for the stacks
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.done
		}
		return fmt.Errorf("%s did not end within %s after %v", m.name, endPatience, signal)
	}
	// Of a signal it dies that comes before it listens to signals, or of its fate; an error is a code.
	if state := p.cmd.ProcessState; signal == syscall.SIGTERM && state.ExitCode() > 0 {
		return fmt.Errorf("%s ended with %v after %v", m.name, state, signal)
	}
	return nil
}

// lines writes to a file and hears whole lines.
type lines struct {
	to   *os.File
	rest []byte
	hear func(line string)
}

func (l *lines) Write(b []byte) (int, error) {
	l.rest = append(l.rest, b...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole {
			break
		}
		l.hear(string(line))
		l.rest = rest
	}
	return l.to.Write(b)
}
