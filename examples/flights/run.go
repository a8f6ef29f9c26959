package flights

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/millrace/millrace/examples/internal/output"
	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/embedded"
	"github.com/millrace/millrace/transport/file"
)

// Exit codes, besides 0 for a run that has come to its end.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // as a shell has it for Ctrl-C
)

// stopTimeout is for the output: who presses Ctrl-C because its disk is full does not want to wait for long.
const stopTimeout = 10 * time.Second

var errInterrupted = errors.New("interrupted; run it again, without --fresh, and it goes on from here")

// Main runs the example with command-line arguments and returns its exit code.
func Main(ctx context.Context, args []string, out, errOut io.Writer) int {
	errOut = output.Shared(errOut)
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		err = help(out)
	} else if err == nil {
		err = run(ctx, o, out, errOut)
	}
	if err == nil {
		return 0
	}
	fmt.Fprintln(errOut, "flights:", err)
	var usage usageError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	}
	return exitFailed
}

// run checks everything that can be checked, then opens the state, then runs the pipeline.
func run(ctx context.Context, o options, out, errOut io.Writer) (err error) {
	inputs, err := o.check()
	if err = errors.Join(err, o.checkOut()); err != nil {
		return err
	}
	ref, err := readReference(o)
	if err != nil {
		return err
	}
	s, err := openState(o, inputs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.store.Close()) }()
	if err := o.unpack(filepath.Join(s.dir, inputName)); err != nil {
		return fmt.Errorf("--state: %w", err)
	}
	switch {
	case s.finished:
		fmt.Fprintf(errOut, "flights: the run in %s has finished already; this is its result (--fresh starts over)\n", s.dir)
	case s.resumed:
		fmt.Fprintf(errOut, "flights: going on with the run in %s\n", s.dir)
	}
	began := time.Now()
	find := inFiles
	if o.transport != "" {
		find = overTransport
	}
	result, err := find(ctx, o, s, ref, errOut)
	if err != nil {
		return err
	}
	if o.out != "" {
		if err := completeFile(o.out, result.pairs); err != nil {
			return err
		}
	}
	if !s.finished {
		fmt.Fprintf(errOut, "flights: finished in %.1f s\n", time.Since(began).Seconds())
	}
	return report(out, result, o.summary == "json")
}

// inFiles runs the pipeline with files as its sources.
func inFiles(ctx context.Context, o options, s *state, ref Reference, errOut io.Writer) (result, error) {
	r, err := newRunner(o, s, ref, errOut)
	if err != nil {
		return result{}, err
	}
	if err := s.begun(ctx); err != nil {
		return result{}, err
	}
	if err := r.run(ctx, s, errOut); err != nil {
		return result{}, err
	}
	return r.result(ctx)
}

// runner is the pipeline on its transports.
type runner struct {
	*framework.Runner
	pipeline *framework.Pipeline
	topics   *embedded.Transport
	files    *file.Transport
}

func newRunner(o options, s *state, ref Reference, errOut io.Writer) (r runner, err error) {
	toFile := o.out != "" && !s.finished
	if toFile {
		if toFile, err = goesOn(s.store, o.out); err != nil {
			return r, err
		}
		if !toFile {
			fmt.Fprintf(errOut, "flights: %s is not what this run has written so far; it is written anew at the end\n", o.out)
		}
	}
	if r.topics, err = embedded.New(s.store, embedded.Config{Partitions: 1}); err != nil {
		return r, err
	}
	if r.files, err = file.New(o.files(toFile, FlightsTopic, WeatherTopic)); err != nil {
		return r, err
	}
	r.pipeline = Pipeline(ref, Options{OutOfOrder: o.lateness, WeatherOutOfOrder: o.weatherLate, ToFile: toFile})
	r.Runner, err = framework.New(framework.Config{
		Store: s.store, Transport: r.topics,
		Routes:      map[string]framework.Transport{FlightsTopic: r.files, WeatherTopic: r.files, OutTopic: r.files},
		BatchEvents: o.batch, Lanes: o.lanes, InternalPartitions: o.partitions,
		StopTimeout: stopTimeout,
		Logger:      output.Warnings(errOut),
	}, r.pipeline)
	return r, err
}

// files are the inputs as topics of these names, and the output.
func (o options) files(toFile bool, flights, weather string) file.Config {
	c := file.Config{Inputs: map[string]file.Input{
		flights: {Path: o.inputs["flights"], Format: file.CSVRows, Comma: ','},
		weather: {Path: o.inputs["weather"], Format: file.CSVRows, Comma: ','},
	}}
	if toFile {
		c.Outputs = map[string]file.Output{OutTopic: {Path: o.out, Overwrite: true}}
	}
	return c
}

// run runs the pipeline to the end of its inputs. That is quick when it has been there: then only counts are read.
func (r runner) run(ctx context.Context, s *state, errOut io.Writer) error {
	stop := func(bool) {}
	if !s.finished {
		stop = showProgress(errOut, r.files, FlightsTopic, WeatherTopic)
	}
	err := r.Run(ctx)
	stop(err == nil && ctx.Err() == nil)
	if err := ended(ctx, err); err != nil {
		return err
	}
	return s.finish(ctx, []byte{1})
}

// ended is the error of a run that has not come to its end.
func ended(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return errors.Join(errInterrupted, err)
	case errors.Is(err, microstore.ErrFull):
		return fmt.Errorf("%w; make room and run it again, and it goes on from here", err)
	}
	return err
}

// result reads back what the run has made.
func (r runner) result(ctx context.Context) (result result, err error) {
	result.Summary = countUp(r.Runner, r.pipeline.Name())
	if result.pairs, err = readPairs(ctx, r.topics, KnockOnTopic); err != nil {
		return result, err
	}
	result.faults, err = readFaults(ctx, r.topics, r.pipeline.DeadLetters())
	return result, err
}
