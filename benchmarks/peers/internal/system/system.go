// Package system is what every program under test has from the harness: the environment that says what to do, and the
// line that says that it has begun.
//
//	BENCH_WORKLOAD                            W1 or W2
//	BENCH_BROKERS                             host:port
//	BENCH_ORDERS, BENCH_PAYMENTS, BENCH_OUT   topics of equally many partitions, keyed by customer
//	BENCH_GROUP                               consumer group, and the beginning of the names of everything it makes
//	BENCH_STATE                               directory for its state; empty, unless it was killed
//
// A program reads from the beginning of the topics, or where it was before it was killed, prints CONSUMING when its
// own code has the first record, and runs until SIGTERM.
package system

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"sync"
	"syscall"
	"time"
)

// What is set alike in every system that has it.
const (
	Linger         = 5 * time.Millisecond
	SessionTimeout = 6 * time.Second
	Heartbeat      = 2 * time.Second
	CommitInterval = time.Second
)

// Task is what a program has to do.
type Task struct {
	Workload, Brokers, Orders, Payments, Out, Group, State string
	// Form is the first argument of the program: one of several ways to do it.
	Form string

	once sync.Once
}

// Consuming says that the first record has come; it may be called for each.
func (t *Task) Consuming() { t.once.Do(func() { fmt.Println("CONSUMING") }) }

// Main runs a program until SIGTERM. CPUPROFILE names a file for a profile of it.
func Main(run func(context.Context, *Task) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := profiled(ctx, run); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func profiled(ctx context.Context, run func(context.Context, *Task) error) error {
	if name := os.Getenv("CPUPROFILE"); name != "" {
		file, err := os.Create(name)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	task := &Task{
		Workload: os.Getenv("BENCH_WORKLOAD"), Brokers: os.Getenv("BENCH_BROKERS"), Orders: os.Getenv("BENCH_ORDERS"),
		Payments: os.Getenv("BENCH_PAYMENTS"), Out: os.Getenv("BENCH_OUT"), Group: os.Getenv("BENCH_GROUP"),
		State: os.Getenv("BENCH_STATE"),
	}
	if len(os.Args) > 1 {
		task.Form = os.Args[1]
	}
	if task.Workload != "W1" && task.Workload != "W2" {
		return fmt.Errorf("BENCH_WORKLOAD is %q: it must be W1 or W2", task.Workload)
	}
	return run(ctx, task)
}
