package flights

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/embedded"
	"github.com/millrace/millrace/transport/file"
)

// Main runs the example with command-line arguments and returns its exit code.
func Main(ctx context.Context, args []string, out, errOut io.Writer) int {
	o, err := parse(args, errOut)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err == nil {
		err = run(ctx, o, out, errOut)
	}
	if err != nil {
		fmt.Fprintln(errOut, "flights:", err)
		return 1
	}
	return 0
}

func run(ctx context.Context, o options, out, errOut io.Writer) (err error) {
	if o.fresh {
		if err := forget(o.state); err != nil {
			return err
		}
	}
	if err := o.unpack(); err != nil {
		return err
	}
	ref, err := readReference(o.inputs["airlines"], o.inputs["planes"])
	if err != nil {
		return err
	}
	store, err := microstore.Open(microstore.Config{Dir: filepath.Join(o.state, "store")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := checkInputs(ctx, store, o); err != nil {
		return err
	}
	_, finished, err := store.Get(finishedName)
	if err != nil {
		return err
	}
	topics, err := embedded.New(store, embedded.Config{Partitions: 1})
	if err != nil {
		return err
	}
	files, err := file.New(o.files())
	if err != nil {
		return err
	}
	pipeline := Pipeline(ref, Options{OutOfOrder: o.outOfOrder, WeatherOutOfOrder: o.weatherOut, ToFile: o.out != "" && !finished})
	runner, err := framework.New(framework.Config{
		Store: store, Transport: topics,
		Routes:      map[string]framework.Transport{FlightsTopic: files, WeatherTopic: files, OutTopic: files},
		BatchEvents: o.batch, Lanes: o.lanes, InternalPartitions: o.partitions,
	}, pipeline)
	if err != nil {
		return err
	}
	if finished {
		fmt.Fprintf(errOut, "%s holds a finished run; this is its result (--fresh starts over)\n", o.state)
	}
	began := time.Now()
	stop := showProgress(errOut, files, finished)
	err = runner.Run(ctx)
	stop()
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("interrupted; run the same command again to go on from here")
	}
	if err := finish(ctx, store); err != nil {
		return err
	}
	pairs, err := readPairs(ctx, topics)
	if err != nil {
		return err
	}
	if o.out != "" {
		if err := completeFile(o.out, pairs); err != nil {
			return err
		}
	}
	faults, err := readFaults(ctx, topics, pipeline.DeadLetters())
	if err != nil {
		return err
	}
	return report(out, o, countUp(runner), pairs, faults, time.Since(began))
}

func (o options) files() file.Config {
	c := file.Config{Inputs: map[string]file.Input{
		FlightsTopic: {Path: o.inputs["flights"]},
		WeatherTopic: {Path: o.inputs["weather"]},
	}}
	if o.out != "" {
		c.Outputs = map[string]file.Output{OutTopic: {Path: o.out, Overwrite: true}}
	}
	return c
}

// Names of values in the store.
const (
	inputsName   = "flights.inputs"
	finishedName = "flights.finished"
)

// checkInputs makes sure that the state is of the same data and options: going on with others would mix two answers.
func checkInputs(ctx context.Context, store *microstore.Store, o options) error {
	sum := sha256.New()
	fmt.Fprintln(sum, o.outOfOrder, o.weatherOut)
	for _, name := range inputNames {
		f, err := os.Open(o.inputs[name])
		if err != nil {
			return fmt.Errorf("--%s: %w", name, err)
		}
		_, err = io.Copy(sum, f)
		f.Close()
		if err != nil {
			return fmt.Errorf("--%s: %w", name, err)
		}
	}
	now := hex.EncodeToString(sum.Sum(nil))
	was, known, err := store.Get(inputsName)
	if err != nil {
		return err
	}
	if known && string(was) != now {
		return fmt.Errorf("state directory %s is of other input files or other bounds of order; give the same ones, "+
			"start over with --fresh, or choose another directory with --state", o.state)
	}
	b := store.NewBatch()
	b.Put(inputsName, []byte(now))
	return store.Commit(ctx, b)
}

func finish(ctx context.Context, store *microstore.Store) error {
	b := store.NewBatch()
	b.Put(finishedName, []byte{1})
	return store.Commit(ctx, b)
}

// forget removes a state directory, and nothing that does not look like one.
func forget(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "store" && e.Name() != "input" {
			return fmt.Errorf("--fresh: %s holds %q, which this example did not make; remove the directory yourself or choose another with --state",
				dir, e.Name())
		}
	}
	return errors.Join(os.RemoveAll(filepath.Join(dir, "store")), os.RemoveAll(filepath.Join(dir, "input")))
}
