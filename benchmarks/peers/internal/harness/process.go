package harness

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// process is a system that runs.
type process struct {
	cmd   *exec.Cmd
	began time.Time
	log   *os.File
	// first is closed when the system has its first record; then firstAt and used are set.
	first   chan struct{}
	firstAt time.Time
	used    usage
	// anonymous is the most memory without pages of files that was seen.
	anonymous atomic.Int64
	// done is closed when the process has ended; then err is set.
	done chan struct{}
	err  error
}

// start runs a command with its output in a file. brokerPID may be 0.
func start(command, env []string, logName string, brokerPID int) (*process, error) {
	log, err := os.OpenFile(logName, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(command[0], command[1:]...), log: log, first: make(chan struct{}), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = log
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		p.began = time.Now()
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	go func() {
		defer close(p.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if lines.Text() == "CONSUMING" && p.firstAt.IsZero() {
				p.used = usageOf(p.cmd.Process.Pid, brokerPID)
				p.firstAt = time.Now()
				close(p.first)
			}
			fmt.Fprintln(log, lines.Text())
		}
		p.err = errors.Join(p.cmd.Wait(), log.Close())
	}()
	go p.watch()
	return p, nil
}

// consuming waits for the first record.
func (p *process) consuming(ctx context.Context) error {
	select {
	case <-p.first:
		return nil
	default:
	}
	select {
	case <-p.first:
		return nil
	case <-p.done:
		return p.ended()
	case <-ctx.Done():
		return fmt.Errorf("the system has not read its first record: %w", context.Cause(ctx))
	}
}

func (p *process) ended() error {
	if p.err == nil {
		return fmt.Errorf("the system ended by itself, without an error, see %s", p.log.Name())
	}
	return fmt.Errorf("the system ended by itself, see %s: %w", p.log.Name(), p.err)
}

// stop asks the process to end, and kills it when it does not.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.kill()
	}
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// usage is what a system, and the broker, have used so far.
type usage struct {
	cpu, broker float64 // seconds
	peakRSS     int64
}

func usageOf(pid, brokerPID int) usage {
	u := usage{cpu: processorTime(pid), peakRSS: peakRSS(pid)}
	if brokerPID > 0 {
		u.broker = processorTime(brokerPID)
	}
	return u
}

// processorTime is what all threads of a process have used; 0 where the system does not tell.
func processorTime(pid int) float64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:])) // the name before it may have blanks
	if len(fields) < 13 {
		return 0
	}
	const ticks = 100 // a second; the same on all machines that Go runs on
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / ticks
}

// peakRSS is the most memory that a process had, mapped pages of files among it; 0 where the system does not tell.
func peakRSS(pid int) int64 { return memory(pid, "VmHWM:") }

// watch looks at the memory of a process until it ends. Pages of files are left out: the system drops them when it needs
// the room. It is 0 where the system does not tell.
func (p *process) watch() {
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-ticks.C:
			p.anonymous.Store(max(p.anonymous.Load(), memory(p.cmd.Process.Pid, "RssAnon:")))
		}
	}
}

func memory(pid int, kind string) int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, kind); ok {
			kib, _ := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// diskUse is how much room the files under dir take. Some come and go meanwhile.
func diskUse(dir string) int64 {
	var size int64
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil
		}
		if info, err := entry.Info(); err == nil {
			if stat, ok := info.Sys().(*syscall.Stat_t); ok {
				size += stat.Blocks * 512
			}
		}
		return nil
	})
	return size
}
