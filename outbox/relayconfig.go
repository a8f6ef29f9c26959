package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// RelayConfig of a Relay. Its zero value is the default.
type RelayConfig struct {
	// Name of the relay in the leases, unique among those that run. One that starts under the name of one that was
	// killed takes over its slots at once instead of waiting for the leases to end. Default: a random one.
	Name string
	// Lease is how long a relay keeps its slots when nothing is heard of it; others take them over then. It renews them
	// every third of it. Default 10 s.
	Lease time.Duration

	// PollMin and PollMax are the times between two looks at an idle table: PollMin after events were found, doubled up
	// to PollMax while there are none. Default 50 ms and 1 s.
	PollMin, PollMax time.Duration
	// Settle is how long after its first INSERT a transaction usually commits. One that takes longer makes the relay read
	// again what lies above it. Default 2 s.
	Settle time.Duration
	// FullScan is the time between two looks at the whole table and at the parked keys, which find those that were
	// resumed and those that are to be tried again; with Log, of two looks at the parked keys and the lowest row. Default
	// 5 s.
	FullScan time.Duration
	// Listener wakes the relay when something was committed. Default nil: the relay polls, and may be woken by Wake.
	Listener Listener
	// Log makes the relay read PostgreSQL's log instead of polling the table; see package pgtail. Default nil: it polls.
	Log Log
	// PollWithoutLog makes the relay poll while the log cannot be read, and start over with a new slot when the slot is
	// lost. Default false: a slot that is lost ends Run with ErrLogLost, and so does what keeps the log from being read
	// at the start; later it is waited for.
	PollWithoutLog bool
	// Sequence, with Log, adds MetadataSequence to events, as a relay without Log does in any case. The numbers are drawn
	// before the commit, so in the order of the commits they grow within a key only where its writers do not run side by
	// side: set it there. Whoever goes by the numbers, such as inbox.Marks, otherwise takes new events for duplicates.
	// Default: what Config.SerializeKeys of the table says.
	Sequence bool

	// BatchRows and BatchBytes bound what is handed to the publisher at once; default 1000 and 1 MiB. A single event
	// over BatchBytes goes by itself.
	BatchRows, BatchBytes int
	// WindowRows and WindowBytes bound what is in memory: read, and not yet sent and deleted. Default 10,000 and 16 MiB;
	// one event over it fits.
	WindowRows, WindowBytes int

	// RetryFirst and RetryMost are the waits after a failure, doubled from one to the other. Default 100 ms and 5 s.
	RetryFirst, RetryMost time.Duration
	// ParkAfter is how often an event is tried while others of its topic are taken, before its key is parked; one that is
	// parked after an error that may pass is tried again by itself, after ParkedRetry and then less and less often. An
	// error that is marked framework.Permanent parks at once, until Resume or DeadLetter. Default 5 and 1 minute.
	ParkAfter   int
	ParkedRetry time.Duration
	// MaxBlocked is how many keys may be waiting or parked; past it, a failing key holds up its topic. Default 10,000.
	MaxBlocked int

	// StopTimeout bounds how long Run waits, after its context is done, for what is being sent. Default 10 s.
	StopTimeout time.Duration
	// Hooks hear of what happens; see HookSent, HookRetry and HookParked.
	Hooks []any
	// Logger; default: discard.
	Logger *slog.Logger
}

// Listener hears of commits, for instance by PostgreSQL's LISTEN; see package pglisten.
type Listener interface {
	// Listen calls wake for each notification, from one goroutine, and returns when ctx is done or the connection is
	// lost. The relay calls it again then, after a wait, and polls meanwhile as always.
	Listen(ctx context.Context, wake func()) error
}

// WithDefaults returns a copy with the defaults filled in.
func (c RelayConfig) WithDefaults() RelayConfig {
	setTime := func(field *time.Duration, value time.Duration) {
		if *field == 0 {
			*field = value
		}
	}
	set := func(field *int, value int) {
		if *field == 0 {
			*field = value
		}
	}
	setTime(&c.Lease, 10*time.Second)
	setTime(&c.PollMin, 50*time.Millisecond)
	setTime(&c.PollMax, max(time.Second, c.PollMin))
	setTime(&c.Settle, 2*time.Second)
	setTime(&c.FullScan, 5*time.Second)
	set(&c.BatchRows, 1000)
	set(&c.BatchBytes, 1<<20)
	set(&c.WindowRows, 10_000)
	set(&c.WindowBytes, 16<<20)
	setTime(&c.RetryFirst, 100*time.Millisecond)
	setTime(&c.RetryMost, max(5*time.Second, c.RetryFirst))
	set(&c.ParkAfter, 5)
	setTime(&c.ParkedRetry, time.Minute)
	set(&c.MaxBlocked, 10_000)
	setTime(&c.StopTimeout, 10*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate names every field that cannot be used.
func (c RelayConfig) Validate() error {
	var faults []error
	positive := func(name string, value int64) {
		if value < 0 {
			faults = append(faults, fmt.Errorf("%s is negative: it must be positive, or 0 for the default", name))
		}
	}
	for name, value := range map[string]time.Duration{
		"Lease": c.Lease, "PollMin": c.PollMin, "PollMax": c.PollMax, "Settle": c.Settle, "FullScan": c.FullScan,
		"RetryFirst": c.RetryFirst, "RetryMost": c.RetryMost, "ParkedRetry": c.ParkedRetry, "StopTimeout": c.StopTimeout,
	} {
		positive(name, int64(value))
	}
	for name, value := range map[string]int{
		"BatchRows": c.BatchRows, "BatchBytes": c.BatchBytes, "WindowRows": c.WindowRows, "WindowBytes": c.WindowBytes,
		"ParkAfter": c.ParkAfter, "MaxBlocked": c.MaxBlocked,
	} {
		positive(name, int64(value))
	}
	less := func(low, high string, a, b time.Duration) {
		if a > 0 && b > 0 && a > b {
			faults = append(faults, fmt.Errorf("%s is %v, more than %s, %v", low, a, high, b))
		}
	}
	less("PollMin", "PollMax", c.PollMin, c.PollMax)
	less("RetryFirst", "RetryMost", c.RetryFirst, c.RetryMost)
	if c.Lease > 0 && c.Lease < 100*time.Millisecond {
		faults = append(faults, fmt.Errorf("Lease is %v: it must be at least 100 ms", c.Lease))
	}
	if most := maxNameBytes - len(logOwner); len(c.Name) > most {
		faults = append(faults, fmt.Errorf("Name has %d bytes: at most %d fit", len(c.Name), most))
	}
	if c.PollWithoutLog && c.Log == nil {
		faults = append(faults, errors.New("PollWithoutLog is set and Log is not: set Log too, or neither"))
	}
	return errors.Join(faults...)
}
