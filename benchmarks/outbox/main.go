package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"time"
)

// options are the flags.
type options struct {
	postgres, broker  string
	workload, systems string
	rounds            int
	scale             float64
	one               string
}

func main() {
	var o options
	flag.StringVar(&o.postgres, "postgres", os.Getenv("MILLRACE_POSTGRES"), "address of a PostgreSQL, postgres://user:password@host/db (or MILLRACE_POSTGRES)")
	flag.StringVar(&o.broker, "kafka", os.Getenv("MILLRACE_KAFKA"), "address of a Kafka, host:port (or MILLRACE_KAFKA)")
	flag.StringVar(&o.workload, "workload", "", "run only these, separated by commas: drain, latency, insert, inbox")
	flag.StringVar(&o.systems, "systems", "", "run only these, separated by commas: millrace, bare, forwarder, …")
	flag.IntVar(&o.rounds, "rounds", 3, "how often each runs")
	flag.Float64Var(&o.scale, "scale", 1, "times the usual number of rows")
	flag.StringVar(&o.one, "one", "", "used by the command itself: one run, as JSON")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if o.one != "" {
		err = measureOne(ctx, o)
	} else {
		err = compare(ctx, o, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "outbox:", err)
		os.Exit(1)
	}
}

// job is a run as it is handed to the process that does it.
type job struct {
	Workload, System, Sink string
	Rows                   int
}

func measureOne(ctx context.Context, o options) error {
	var j job
	if err := json.Unmarshal([]byte(o.one), &j); err != nil {
		return err
	}
	took, err := measure(ctx, run{j.Workload, j.System, j.Sink, j.Rows}, o.postgres, o.broker, usualPatience)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(took)
}

// compare does all runs in turn, a few times, and prints tables.
func compare(ctx context.Context, o options, out io.Writer) error {
	if o.postgres == "" || o.broker == "" {
		return errors.New("it needs a PostgreSQL and a Kafka: set -postgres and -kafka, or MILLRACE_POSTGRES and MILLRACE_KAFKA")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	wanted := slices.DeleteFunc(runs(), func(r run) bool { return !chosen(o.workload, r.workload) || !chosen(o.systems, r.system) })
	if len(wanted) == 0 {
		return fmt.Errorf("nothing is both of -workload %q and of -systems %q", o.workload, o.systems)
	}
	results := map[run][]result{}
	for round := range o.rounds {
		for _, r := range wanted {
			fmt.Fprintf(os.Stderr, "%s round %d of %d: %s, %s %s\n", time.Now().Format(time.TimeOnly), round+1, o.rounds, r.workload, r.system, r.sink)
			text, err := json.Marshal(job{r.workload, r.system, r.sink, max(10, int(float64(r.rows)*o.scale))})
			if err != nil {
				return err
			}
			command := exec.CommandContext(ctx, self, "-one", string(text), "-postgres", o.postgres, "-kafka", o.broker)
			command.Stderr = os.Stderr
			answer, err := command.Output()
			if err != nil {
				return fmt.Errorf("%s, %s %s: %w", r.workload, r.system, r.sink, err)
			}
			var took result
			if err := json.Unmarshal(answer, &took); err != nil {
				return fmt.Errorf("%s, %s %s: %w", r.workload, r.system, r.sink, err)
			}
			results[r] = append(results[r], took)
		}
	}
	fmt.Fprintf(out, "%s %s/%s, %d processors, %d rounds, %s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(),
		o.rounds, time.Now().UTC().Format(time.DateOnly))
	printTables(out, wanted, results)
	return nil
}

func chosen(list, name string) bool {
	return list == "" || slices.Contains(strings.Split(list, ","), name)
}
