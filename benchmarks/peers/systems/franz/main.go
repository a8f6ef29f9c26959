// Command franz is what one would write with franz-go alone: one loop, outputs produced without waiting, progress
// committed when they are there. The first argument is the JSON library: "v2", which is Millrace's, or "goccy". W2 keeps
// its histories in Pebble.
package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/go-json-experiment/json"
	gojson "github.com/goccy/go-json"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/benchmarks/peers/internal/system"
)

// library is a JSON library.
type library struct {
	unmarshal func([]byte, any) error
	marshal   func(any) ([]byte, error)
}

func libraryOf(form string) (library, error) {
	switch form {
	case "v2":
		return library{
			func(b []byte, v any) error { return json.Unmarshal(b, v) },
			func(v any) ([]byte, error) { return json.Marshal(v) },
		}, nil
	case "goccy":
		return library{gojson.Unmarshal, gojson.Marshal}, nil
	}
	return library{}, fmt.Errorf("franz: JSON library %q: it can be v2 or goccy", form)
}

func main() { system.Main(run) }

func run(ctx context.Context, task *system.Task) error {
	lib, err := libraryOf(task.Form)
	if err != nil {
		return err
	}
	if task.Workload == "W1" {
		err = enrich(ctx, task, lib)
	} else {
		err = join(ctx, task, lib)
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil // asked to stop
	}
	return err
}

// connect returns a client that writes to the output topic, with what else it should do.
func connect(task *system.Task, opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(task.Brokers), kgo.DefaultProduceTopic(task.Out), kgo.ProducerLinger(system.Linger),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.MaxBufferedRecords(50_000),
		kgo.SessionTimeout(system.SessionTimeout), kgo.HeartbeatInterval(system.Heartbeat),
	}, opts...)...)
}

// writer produces, and remembers the first error.
type writer struct {
	client *kgo.Client
	fault  atomic.Pointer[error]
}

func (w *writer) send(ctx context.Context, key, value []byte) {
	w.client.Produce(ctx, &kgo.Record{Key: key, Value: value}, func(_ *kgo.Record, err error) {
		if err != nil {
			w.fault.CompareAndSwap(nil, &err)
		}
	})
}

// flush returns when all that was sent is written.
func (w *writer) flush(ctx context.Context) error {
	if err := w.client.Flush(ctx); err != nil {
		return err
	}
	if err := w.fault.Load(); err != nil {
		return *err
	}
	return nil
}
