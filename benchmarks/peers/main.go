package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/millrace/millrace/benchmarks/peers/internal/harness"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	c := harness.Config{Log: os.Stderr}
	flag.StringVar(&c.Brokers, "brokers", "", "where Kafka is, host:port")
	flag.IntVar(&c.BrokerPID, "broker-pid", 0, "process of a broker on this machine, to measure it and keep it off the systems' processors")
	flag.StringVar(&c.Dir, "dir", "", "for programs, logs and state (default millrace-peers among the temporary files)")
	flag.StringVar(&c.Results, "results", "", "file to which results are added (default results.jsonl in dir)")
	list(&c.Modes, "modes", "throughput, latency, equal, kill (default all)")
	list(&c.Workloads, "workloads", "W1, W2 (default all)")
	list(&c.Systems, "systems", "comma-separated (default all but kstreams-eos)")
	flag.BoolVar(&c.Full, "full", false, "also W2 with a million orders, for the systems that can do that in a minute or two")
	flag.IntVar(&c.Rounds, "rounds", 3, "how often each run is done")
	flag.Float64Var(&c.Scale, "scale", 1, "times the usual number of orders")
	flag.IntVar(&c.Orders, "orders", 0, "number of orders instead of the usual ones")
	flag.DurationVar(&c.Until, "until", 0, "begin no further run after this time")
	flag.IntVar(&c.Processors, "processors", 1, "how many a system has for itself; -1: everything shares all")
	flag.Float64Var(&c.Rate, "rate", 0, "input records a second in the modes equal and kill (default 6000 and 1000)")
	flag.DurationVar(&c.WarmUp, "warm-up", 0, "input at a rate before latencies count, or before the kill (default 3s)")
	flag.DurationVar(&c.Measure, "measure", 0, "and then (default 7s)")
	flag.DurationVar(&c.Patience, "patience", 0, "how long a system may make no progress (default 1m)")
	prepare := flag.Bool("prepare", false, "only build the systems and fill their topics")
	report := flag.Bool("report", false, "only report the results that are there")
	page := flag.String("page", "", "put tables and plot into this Markdown page instead of printing tables")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("%q is no flag, see -help", flag.Arg(0))
	}
	if *prepare {
		return harness.Prepare(ctx, c)
	}
	var fault error
	if !*report {
		fault = harness.Compare(ctx, c)
	}
	results, err := harness.Read(c.WithDefaults().Results)
	switch {
	case err != nil:
	case *page != "":
		err = harness.WritePage(*page, results)
	default:
		harness.Report(os.Stdout, results)
	}
	if fault != nil {
		return fault
	}
	return err
}

// list is a flag of several words.
func list(words *[]string, name, usage string) {
	flag.Func(name, usage, func(text string) error {
		*words = strings.Split(text, ",")
		return nil
	})
}
