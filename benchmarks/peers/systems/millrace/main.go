// Command millrace is Millrace as a system under test: a pipeline for each workload. The first argument may be
// "goccy", for another JSON library than Millrace's own, or "changelog", for a copy of the state in topics.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/millrace/millrace/benchmarks/peers/internal/system"
	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/kafka"
)

func main() { system.Main(run) }

func run(ctx context.Context, task *system.Task) error {
	store, err := microstore.Open(microstore.Config{Dir: task.State})
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }()
	topics, err := kafka.New(ctx, kafka.Config{
		Brokers: []string{task.Brokers}, SessionTimeout: system.SessionTimeout, Replicas: 1,
	})
	if err != nil {
		return err
	}
	defer func() { _ = topics.Close() }()
	p := framework.NewPipeline(task.Group)
	if task.Workload == "W1" {
		enrich(p, task)
	} else {
		join(p, task)
	}
	if task.Form == "changelog" {
		p.Changelog(framework.Changelog{})
	}
	runner, err := framework.New(framework.Config{
		Store: store, Transport: topics, BatchEvents: 3000, BatchBytes: 2 << 20,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}, p)
	if err != nil {
		return fmt.Errorf("millrace: %w", err)
	}
	return runner.Run(ctx)
}
