package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/benchmarks/workload"
)

func main() {
	only := flag.String("workload", "", "run only this workload")
	rounds := flag.Int("rounds", 3, "how often each program runs")
	scale := flag.Float64("scale", 1, "times the usual number of events")
	procs := flag.Int("procs", 1, "GOMAXPROCS of each program")
	soak := flag.Int("soak", 0, "instead, run the join over so many events; memory that grows is an error")
	one := flag.String("one", "", "run one program in this process, \"join/millrace\"")
	events := flag.Int("events", 0, "used by the command itself, and with -one: how many events")
	profile := flag.String("profile", "", "with -one: write a processor profile to this file")
	flag.Parse()
	var err error
	switch {
	case *one != "":
		err = runOne(*one, *events, *profile)
	case *soak > 0:
		err = workload.Soak(*soak, os.Stdout)
	default:
		err = compare(*only, *rounds, *scale, *procs)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}

// runOne runs a program and prints its result as JSON.
func runOne(name string, events int, profile string) error {
	for _, p := range workload.Programs() {
		if title(p) != name {
			continue
		}
		if events == 0 {
			events = p.Events
		}
		dir, err := os.MkdirTemp("", "millrace-bench")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		stop, err := startProfile(profile)
		if err != nil {
			return err
		}
		result, err := p.Run(events, dir)
		if err = errors.Join(err, stop()); err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(result)
	}
	return fmt.Errorf("no program %q", name)
}

// startProfile writes a profile of what runs until stop, the making of the input included. No file, no profile.
func startProfile(name string) (stop func() error, err error) {
	if name == "" {
		return func() error { return nil }, nil
	}
	file, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return file.Close()
	}, nil
}

func title(p workload.Program) string { return p.Workload + "/" + p.Name }

// compare runs the programs in turn, and prints a table for each workload.
func compare(only string, rounds int, scale float64, procs int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	results := map[string][]workload.Result{}
	for round := range rounds {
		for _, p := range workload.Programs() {
			if only != "" && p.Workload != only {
				continue
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, rounds, title(p))
			command := exec.Command(self, "-one", title(p), "-events", fmt.Sprint(int(float64(p.Events)*scale)))
			command.Env = append(os.Environ(), fmt.Sprintf("GOMAXPROCS=%d", procs))
			command.Stderr = os.Stderr
			out, err := command.Output()
			if err != nil {
				return fmt.Errorf("%s: %w", title(p), err)
			}
			var r workload.Result
			if err := json.Unmarshal(out, &r); err != nil {
				return fmt.Errorf("%s: %w", title(p), err)
			}
			results[title(p)] = append(results[title(p)], r)
		}
	}
	fmt.Printf("%s %s/%s, %d processor(s) a program, %d rounds, %s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH,
		procs, rounds, time.Now().UTC().Format(time.DateOnly))
	print(results)
	return nil
}

// print prints medians and spreads, and for each program how many times Millrace's processor time it takes.
func print(results map[string][]workload.Result) {
	last := ""
	var ours float64
	for _, p := range workload.Programs() {
		all := results[title(p)]
		if len(all) == 0 {
			continue
		}
		var used, wall []float64
		for _, r := range all {
			used = append(used, float64(r.CPU.Nanoseconds())/float64(r.Events)/1000)
			wall = append(wall, float64(r.Events)/r.Wall.Seconds()/1000)
		}
		if p.Workload != last {
			last, ours = p.Workload, median(used)
			fmt.Printf("\n| %s | events | µs of processor an event | times Millrace's | thousand events/s |\n|---|---|---|---|---|\n", p.Workload)
		}
		fmt.Printf("| %s | %d | %s | %.2f | %s |\n", p.Name, all[0].Events, spread(used), median(used)/ours, spread(wall))
	}
}

func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

func spread(all []float64) string {
	sorted := slices.Sorted(slices.Values(all))
	text := func(v float64) string { return strings.TrimSuffix(fmt.Sprintf("%.3g", v), ".") }
	return fmt.Sprintf("%s [%s..%s]", text(median(all)), text(sorted[0]), text(sorted[len(sorted)-1]))
}
