package orders

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace/millrace/examples/internal/address"
	"github.com/millrace/millrace/examples/internal/output"
	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/embedded"
)

// Exit codes, besides 0 for a run that has come to its end.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // as a shell has it for Ctrl-C
)

const reportEvery = time.Second

var errInterrupted = errors.New("interrupted; run it again, without --fresh, and it goes on from here")

// Main runs the example with command-line arguments and returns its exit code.
func Main(ctx context.Context, args []string, out, errOut io.Writer) int {
	o, err := parse(args, errOut)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(errOut, "orders:", err)
		return exitUsage
	}
	errOut = output.Shared(errOut)
	err = run(ctx, o, out, errOut)
	if err == nil {
		return 0
	}
	fmt.Fprintln(errOut, "orders:", err)
	if errors.Is(err, errInterrupted) {
		return exitInterrupted
	}
	return exitFailed
}

func run(ctx context.Context, o options, out, errOut io.Writer) (err error) {
	dir := filepath.Join(o.state, "store")
	if o.fresh {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("--fresh: %w", err)
		}
	}
	store, err := microstore.Open(microstore.Config{Dir: dir})
	if err != nil {
		return fmt.Errorf("--state %s: %w", o.state, err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	t := topicsWith(o.prefix)
	f := &feeder{store: store, topics: t, scheme: o.scheme(), orders: o.orders, out: errOut}
	if _, err := f.sent(); err != nil {
		return fmt.Errorf("--state %s: %w", o.state, err)
	}
	logger := output.Warnings(errOut)
	transport, closeTransport, err := address.Open(ctx, o.transport, store, logger)
	if err != nil {
		return fmt.Errorf("--transport: %w", err)
	}
	defer func() { err = errors.Join(err, closeTransport()) }()
	if err := create(ctx, transport, t); err != nil {
		return err
	}
	local, err := embedded.New(store, embedded.Config{})
	if err != nil {
		return err
	}
	publisher, err := transport.Publisher(framework.PublisherConfig{Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, publisher.Close()) }()
	f.publisher = publisher
	decide, count := decide(t), count(t)
	if o.changelog {
		decide.Changelog(framework.Changelog{})
		count.Changelog(framework.Changelog{})
	}
	rebuilding := newRebuilding()
	runner, err := framework.New(framework.Config{
		Store: store, Transport: transport,
		IdleAfter: -1, // every partition gets one of the last orders, so event time needs no help of the wall clock
		// Wherever the topics are, and whatever names they may have there, dead letters are beside the state.
		Routes: map[string]framework.Transport{decide.DeadLetters(): local, count.DeadLetters(): local},
		Hooks:  []framework.Hook{rebuilding},
		Logger: logger,
	}, decide, count)
	if err != nil {
		return err
	}
	if err = process(ctx, o, runner, f, rebuilding, out, errOut); errors.Is(err, framework.ErrForeignState) {
		err = fmt.Errorf("--state %s: %w; name another directory with --state, or forget what is in this one with --fresh", o.state, err)
	}
	return err
}

// create makes the topics that are not there, with as many partitions as the transport has been told.
func create(ctx context.Context, transport framework.Transport, t topics) error {
	creator, ok := transport.(framework.TopicCreator)
	if !ok {
		return nil
	}
	for _, topic := range t.all() {
		if err := creator.CreateTopic(ctx, topic, 0); err != nil {
			return err
		}
	}
	return nil
}

// process feeds the topics and runs the pipelines until every order is decided.
func process(ctx context.Context, o options, runner *framework.Runner, f *feeder, r *rebuilding, out, errOut io.Writer) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	ran, fed := make(chan error, 1), make(chan error, 1)
	go func() { ran <- runner.Run(running) }()
	go func() {
		select {
		case <-runner.Ready():
			fed <- f.run(running)
		case <-running.Done():
			fed <- nil
		}
	}()
	wantConfirmed, wantUnpaid := expected(o.orders)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	reported := time.Now()
	var confirmed, unpaid int64
	var feeding <-chan error = fed
	for done := false; !done; {
		select {
		case err := <-ran: // by itself, or because ctx is done
			stop()
			if err == nil && ctx.Err() != nil {
				err = errInterrupted
			}
			if feeding != nil {
				err = errors.Join(err, quiet(<-feeding))
			}
			return err
		case err := <-feeding:
			if feeding = nil; quiet(err) != nil {
				stop()
				return errors.Join(err, <-ran)
			}
		case <-tick.C:
		}
		confirmed, unpaid = outcomes(runner, f.topics)
		done = !o.follow && confirmed >= wantConfirmed && unpaid >= wantUnpaid
		if now := time.Now(); now.Sub(reported) >= reportEvery || done {
			reported = now
			fmt.Fprintf(errOut, "orders: %d confirmed, %d unpaid%s%s\n", confirmed, unpaid, behind(runner, f.topics), r)
		}
	}
	stop()
	err := <-ran
	if feeding != nil {
		err = errors.Join(err, quiet(<-feeding))
	}
	if err != nil {
		return err
	}
	return report(out, o.orders, confirmed, unpaid)
}

// quiet leaves out the error of a feeder that was stopped.
func quiet(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// outcomes is what has been counted, each order once.
func outcomes(runner *framework.Runner, t topics) (confirmed, unpaid int64) {
	pipeline := pipelineName(t, "count")
	return runner.Counts(pipeline, "counted:orders-confirmed").Out, runner.Counts(pipeline, "counted:orders-unpaid").Out
}

// behind says how many records are to be processed, for a line; nothing where the transport does not know.
func behind(runner *framework.Runner, t topics) string {
	all := append(runner.Lag(pipelineName(t, "decide")), runner.Lag(pipelineName(t, "count"))...)
	if len(all) == 0 {
		return ""
	}
	var n int64
	for _, l := range all {
		n += l.Behind()
	}
	return fmt.Sprintf(", %d records behind", n)
}

func report(out io.Writer, orders int, confirmed, unpaid int64) error {
	fmt.Fprintf(out, "%d orders: %d confirmed, %d not paid in time\n", orders, confirmed, unpaid)
	if want, _ := expected(orders); confirmed != want || confirmed+unpaid != int64(orders) {
		return fmt.Errorf("%d orders should have been confirmed, and every one decided once", want)
	}
	return nil
}
