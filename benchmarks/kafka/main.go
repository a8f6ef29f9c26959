// Command kafka runs Millrace as one system of a comparison over Kafka: a harness gives it topics, reads what it writes
// and measures the process. The environment says what to do:
//
//	BENCH_WORKLOAD   W1: decode, keep half, enrich from two tables, encode
//	                 W2: join orders and payments through the histories of their customers
//	BENCH_BROKERS    host:port
//	BENCH_ORDERS, BENCH_PAYMENTS, BENCH_OUT   topics, partitioned alike
//	BENCH_GROUP      begins the names of the consumer group and of topics of its own
//	BENCH_STATE      an empty directory
//
// It prints CONSUMING when the first record has come, and runs until SIGTERM.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/pprof"
	"sync"
	"syscall"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/kafka"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "millrace:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	if name := os.Getenv("CPUPROFILE"); name != "" {
		file, err := os.Create(name)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	store, err := microstore.Open(microstore.Config{Dir: os.Getenv("BENCH_STATE")})
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	topics, err := kafka.New(ctx, kafka.Config{
		Brokers: []string{os.Getenv("BENCH_BROKERS")}, Linger: 5 * time.Millisecond, SessionTimeout: 6 * time.Second, Replicas: 1,
	})
	if err != nil {
		return err
	}
	defer func() { _ = topics.Close() }()
	var once sync.Once
	consuming := func() { once.Do(func() { fmt.Println("CONSUMING") }) }
	p := framework.NewPipeline(os.Getenv("BENCH_GROUP"))
	switch workload := os.Getenv("BENCH_WORKLOAD"); workload {
	case "W1":
		enrich(p, consuming)
	case "W2":
		join(p, consuming)
	default:
		return fmt.Errorf("BENCH_WORKLOAD is %q; it can be W1 or W2", workload)
	}
	runner, err := framework.New(framework.Config{
		Store: store, Transport: topics, BatchEvents: 5000, BatchBytes: 4 << 20,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}, p)
	if err != nil {
		return err
	}
	return runner.Run(ctx)
}
