package workload

import (
	"fmt"
	"syscall"
	"time"
)

// Result is what a program took for its events.
type Result struct {
	Events int
	Wall   time.Duration
	CPU    time.Duration
}

// PerEvent is processor time an event.
func (r Result) PerEvent() time.Duration { return r.CPU / time.Duration(r.Events) }

// Program is one system under one workload. It prepares its input, then calls run with what is to be measured.
type Program struct {
	Workload, Name string
	// Events is how many it handles at a usual size.
	Events int
	// Run handles n events in a directory of its own.
	Run func(n int, dir string) (Result, error)
}

// Programs are all of them; the first of a workload is Millrace.
func Programs() []Program {
	return []Program{
		{"stateless", "millrace", 1_000_000, statelessMillrace},
		{"stateless", "watermill router", 500_000, statelessRouter},
		{"json", "millrace", 1_000_000, jsonMillrace},
		{"json", "bare loop", 1_000_000, jsonLoop},
		{"join", "millrace", 400_000, joinMillrace},
		{"join", "bare loop + badger", 400_000, joinLoop},
		{"join", "watermill + badger", 100_000, joinWatermill},
	}
}

// measure runs f and tells what it took.
func measure(events int, f func() error) (Result, error) {
	began, before := time.Now(), cpu()
	if err := f(); err != nil {
		return Result{}, err
	}
	return Result{Events: events, Wall: time.Since(began), CPU: cpu() - before}, nil
}

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// expect is an error unless a count is right.
func expect(what string, got, want int) error {
	if got != want {
		return fmt.Errorf("%s: %d, want %d", what, got, want)
	}
	return nil
}
