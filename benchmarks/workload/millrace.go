package workload

import (
	"context"
	"errors"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/memory"
)

// run sends records through a pipeline over the memory transport, with its state on disk, and returns how many
// came out at each of the sinks.
func run(dir string, p *framework.Pipeline, records map[string][]framework.Record) (Result, map[string]int, error) {
	store, err := microstore.Open(microstore.Config{Dir: dir})
	if err != nil {
		return Result{}, nil, err
	}
	defer store.Close()
	total := 0
	for _, in := range records {
		total += len(in)
	}
	topics, err := memory.New(memory.Config{Partitions: partOf, AutoCreate: true, RetainEvents: total + 1, RetainBytes: 1 << 40})
	if err != nil {
		return Result{}, nil, err
	}
	for topic, in := range records {
		if err := errors.Join(topics.Publish(topic, in...), topics.End(topic)); err != nil {
			return Result{}, nil, err
		}
	}
	runner, err := framework.New(framework.Config{Store: store, Transport: topics}, p)
	if err != nil {
		return Result{}, nil, err
	}
	result, err := measure(total, func() error { return runner.Run(context.Background()) })
	if err != nil {
		return Result{}, nil, err
	}
	out := map[string]int{p.DeadLetters(): len(topics.Records(p.DeadLetters()))}
	for _, topic := range p.Sinks() {
		out[topic] = len(topics.Records(topic))
	}
	return result, out, nil
}
