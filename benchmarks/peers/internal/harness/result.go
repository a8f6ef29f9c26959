package harness

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

// Result is what a run gave. Processor times are in seconds; 0 is what could not be measured.
type Result struct {
	At                     time.Time
	Machine                string
	Mode, Workload, System string
	Orders, Inputs         int
	Processors             int  // that the system has for itself; negative: shared
	Empty                  bool `json:",omitempty"`

	// From the first record to the last output, and from the start of the process.
	Seconds, SecondsWithStart float64
	CPU, CPUWithStart         float64
	BrokerCPU                 float64
	PeakRSS, State            int64 // bytes
	PeakAnonymous             int64 `json:",omitempty"` // without pages of files

	// Of the modes latency and equal: inputs a second, and seconds.
	Rate, P50, P99 float64 `json:",omitempty"`
	// And of the inputs alone, until their topics have them.
	InputP50, InputP99 float64 `json:",omitempty"`
	// Of the mode kill: seconds from the kill to the first output that was not there before, and until it has caught up.
	NextOutput, CaughtUp float64 `json:",omitempty"`

	Due, Missing, Again, Wrong int
	// Fault says why the result does not count.
	Fault string `json:",omitempty"`
}

// OK says whether the result counts: all outputs were there and right.
func (r Result) OK() bool { return r.Fault == "" && r.Missing == 0 && r.Wrong == 0 && r.Due > 0 }

// PerSecond is input records a second.
func (r Result) PerSecond() float64 { return float64(r.Inputs) / r.Seconds }

// Busy is how much of a processor the system took; 0 where that was not measured.
func (r Result) Busy() float64 {
	if r.Seconds == 0 {
		return 0
	}
	return r.CPU / r.Seconds
}

// PerMillion is seconds of processor time for a million input records.
func (r Result) PerMillion() float64 { return r.CPU / float64(r.Inputs) * 1e6 }

func (r Result) run() Run {
	run := Run{Mode: r.Mode, Workload: r.Workload, System: r.System, Orders: r.Orders, Empty: r.Empty}
	switch r.Mode { // they have what the rate gave them
	case Equal:
		run.Orders, run.Rate = 0, r.Rate
	case Latency:
		run.Orders = 0
	}
	return run
}

// line tells the result to the person who waits for it.
func (r Result) line() string {
	text := fmt.Sprintf("%d of %d outputs, %d again", r.Due-r.Missing, r.Due, r.Again)
	switch r.Mode {
	case Throughput:
		text += fmt.Sprintf("; %.0f records/s, %.1f s of processor for a million, %d MiB, %d without files", r.PerSecond(), r.PerMillion(),
			r.PeakRSS>>20, r.PeakAnonymous>>20)
	case Latency, Equal:
		text += fmt.Sprintf("; at %.0f records/s: p50 %.1f ms, p99 %.1f ms", r.Rate, 1000*r.P50, 1000*r.P99)
	case Kill:
		text += fmt.Sprintf("; next output after %.1f s, caught up after %.1f s", r.NextOutput, r.CaughtUp)
	}
	if !r.OK() {
		text += "; NOT COUNTED: " + r.Fault
	}
	return text
}

// add writes a result to the end of the file.
func add(file string, r Result) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(json.NewEncoder(f).Encode(r), f.Close())
}

// Read returns the results of a file; one that is not there has none.
func Read(file string) ([]Result, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var results []Result
	for lines := bufio.NewScanner(f); ; {
		if !lines.Scan() {
			return results, lines.Err()
		}
		var r Result
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", file, len(results)+1, err)
		}
		results = append(results, r)
	}
}

// spread is a median with the least and the most.
type spread struct{ median, least, most float64 }

// over is the spread of a figure over results; none gives zeros.
func over(results []Result, figure func(Result) float64) spread {
	var all []float64
	for _, r := range results {
		all = append(all, figure(r))
	}
	if len(all) == 0 {
		return spread{}
	}
	slices.Sort(all)
	n := len(all)
	return spread{(all[(n-1)/2] + all[n/2]) / 2, all[0], all[n-1]}
}
