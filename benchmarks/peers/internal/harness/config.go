package harness

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Modes of a run.
const (
	Throughput = "throughput"
	Latency    = "latency"
	Equal      = "equal" // latency at a rate that is the same for all
	Kill       = "kill"
)

// Config of a comparison. Brokers is needed; the zero value of all else is the default.
type Config struct {
	// Brokers is where Kafka is, "host:port".
	Brokers string
	// BrokerPID is the process of a broker on this machine, to measure it and to keep it off the processors of the
	// systems. Default 0: neither.
	BrokerPID int
	// Module is the directory of this module, where the systems are built from. Default ".".
	Module string
	// Dir is for programs, logs and the systems' state. Default "millrace-peers" in the directory for temporary files.
	Dir string
	// Results is the file to which results are added. Default "results.jsonl" in Dir.
	Results string

	// Modes, Workloads and Systems choose among the runs of Plan. Default: all.
	Modes, Workloads, Systems []string
	// Full adds W2 with a million orders, of 50,000 customers. Default false.
	Full bool
	// Rounds is how often each run is done, in turn with the others. Default 3.
	Rounds int
	// Scale times the usual number of orders is what a run has. Default 1.
	Scale float64
	// Orders, when not 0, is the number instead.
	Orders int
	// Until is the time after which no further run begins. Default: none.
	Until time.Duration

	// Processors is how many a system gets, with taskset; the broker and this process have the others. Default 1; negative:
	// all share all.
	Processors int
	// Rate of the input in the modes equal and kill, in records a second. Default 6,000 and 1,000. In the mode latency it is
	// half of the median of the throughput of the same system in Results.
	Rate float64
	// WarmUp and Measure are how long that input is before and while latencies count, or before and after the kill.
	// Default 3 s and 7 s, which is longer than a group waits for a member that is gone.
	WarmUp, Measure time.Duration
	// Patience is how long a system may make no progress before it is stopped. Default 60 s.
	Patience time.Duration
	// Log receives a line for each run. Default: none.
	Log io.Writer
}

// WithDefaults returns a copy with the defaults filled in.
func (c Config) WithDefaults() Config {
	setDefault(&c.Module, ".")
	setDefault(&c.Dir, filepath.Join(os.TempDir(), "millrace-peers"))
	setDefault(&c.Results, filepath.Join(c.Dir, "results.jsonl"))
	setDefault(&c.Rounds, 3)
	setDefault(&c.Scale, 1)
	setDefault(&c.Processors, 1)
	setDefault(&c.WarmUp, 3*time.Second)
	setDefault(&c.Measure, 7*time.Second)
	setDefault(&c.Patience, time.Minute)
	if c.Log == nil {
		c.Log = io.Discard
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate names every field that cannot be used.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Brokers == "" {
		fault("Brokers is empty: it takes host:port")
	}
	c = c.WithDefaults()
	known := func(field string, chosen, all []string) {
		for _, name := range chosen {
			if !slices.Contains(all, name) {
				fault("%s has %q: it can be %s", field, name, strings.Join(all, ", "))
			}
		}
	}
	known("Modes", c.Modes, []string{Throughput, Latency, Equal, Kill})
	known("Workloads", c.Workloads, []string{"W1", "W2"})
	known("Systems", c.Systems, names())
	if c.Rounds < 0 || c.Scale < 0 || c.Orders < 0 || c.Rate < 0 || c.Until < 0 {
		fault("Rounds, Scale, Orders, Rate and Until cannot be negative")
	}
	if c.WarmUp < 0 || c.Measure < 0 || c.Patience < 0 {
		fault("WarmUp, Measure and Patience cannot be negative")
	}
	return errors.Join(faults...)
}

// wants says whether a run was chosen.
func (c Config) wants(r Run) bool {
	chosen := func(all []string, one string) bool { return len(all) == 0 || slices.Contains(all, one) }
	byDefault := len(c.Systems) > 0 || !r.system().OnlyByName
	return byDefault && chosen(c.Modes, r.Mode) && chosen(c.Workloads, r.Workload) && chosen(c.Systems, r.System)
}
