package flights

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/millrace/millrace/examples/internal/address"
	"github.com/millrace/millrace/examples/internal/output"
	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/transport/embedded"
)

// Topics of the store, where the rest is on a transport.
const foundTopic = "knock-on-delays.found"

// look is how often it is looked how far a run over a transport has come.
const look = 20 * time.Millisecond

// overTransport runs the same pipeline over topics of a transport, which have no end:
//
//  1. A runner of its own, the feed, reads the files and sends each row to a topic. It begins when the pipeline has
//     subscribed, since some brokers keep nothing for those that come later.
//  2. When the pipeline has read as many rows as the feed has sent, closing rows follow, one for each partition: they
//     move event time past every window.
//  3. When event time has come there in all tasks, everything is decided. The results are read back from their topic,
//     each once, and the run is at its end when they are as many as were decided. Only now they are written to --out:
//     a file has one writer, and the partitions of a topic may be shared out.
func overTransport(ctx context.Context, o options, s *state, ref Reference, errOut io.Writer) (r result, err error) {
	t := &transported{options: o, state: s, reached: newReached(o.prefix + "flights")}
	if t.local, err = embedded.New(s.store, embedded.Config{Partitions: 1, RetainBytes: -1}); err != nil {
		return r, err
	}
	if !s.finished {
		if err := t.run(ctx, ref, errOut); err != nil {
			return r, err
		}
	}
	return t.result(ctx)
}

// transported is a run over a transport.
type transported struct {
	options
	state   *state
	local   *embedded.Transport // dead letters, and what has come out
	topics  framework.Transport
	reached *reached

	*framework.Runner
	main, found *framework.Pipeline
	feed        *feed
	publisher   framework.Publisher
	summary     Summary
}

func (t *transported) run(ctx context.Context, ref Reference, errOut io.Writer) (err error) {
	var closeTopics func() error
	if t.topics, closeTopics, err = address.Open(ctx, t.transport, t.state.store, output.Warnings(errOut)); err != nil {
		return fmt.Errorf("--transport: %w", err)
	}
	defer func() { err = errors.Join(err, closeTopics()) }()
	names := []string{t.prefix + FlightsTopic, t.prefix + WeatherTopic, t.prefix + KnockOnTopic}
	if creator, ok := t.topics.(framework.TopicCreator); ok {
		for _, name := range names {
			if err := creator.CreateTopic(ctx, name, 0); err != nil {
				return fmt.Errorf("--transport: %w", err)
			}
		}
	}
	if err := t.build(ref, errOut); err != nil {
		return err
	}
	if err := t.state.begun(ctx); err != nil {
		return err
	}
	if t.feed, err = newFeed(t.options, t.state.dir, t.topics, errOut); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.feed.store.Close()) }()
	if t.publisher, err = t.topics.Publisher(framework.PublisherConfig{Logger: output.Warnings(errOut)}); err != nil {
		return fmt.Errorf("--transport: %w", err)
	}
	defer func() { err = errors.Join(err, t.publisher.Close()) }()

	running, stop := context.WithCancel(ctx)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- t.Run(running) }()
	err = t.toEnd(running, ran, errOut)
	if errors.Is(err, errStopped) { // the pipeline has ended by itself, with the error that is told
		err = nil
	}
	stop()
	if err = ended(ctx, errors.Join(err, <-ran)); err != nil {
		return err
	}
	return t.finish(ctx)
}

// build makes the runner of the pipeline, and of the one that reads its results.
func (t *transported) build(ref Reference, errOut io.Writer) (err error) {
	t.main = Pipeline(ref, Options{OutOfOrder: t.lateness, WeatherOutOfOrder: t.weatherLate, Prefix: t.prefix})
	t.found = findings(t.prefix)
	t.Runner, err = framework.New(framework.Config{
		Store: t.state.store, Transport: t.topics, Internal: t.local,
		Routes: map[string]framework.Transport{
			foundTopic: t.local, t.main.DeadLetters(): t.local, t.found.DeadLetters(): t.local,
		},
		BatchEvents: t.batch, Lanes: t.lanes, InternalPartitions: t.partitions,
		IdleAfter: -1, // event time is that of the rows, and closing rows come to every partition
		Hooks:     []framework.Hook{t.reached}, Logger: output.Warnings(errOut),
	}, t.main, t.found)
	return err
}

// findings is the pipeline that reads the results, each once: the topic may hold one twice.
func findings(prefix string) *framework.Pipeline {
	p := framework.NewPipeline(prefix + "flights-found")
	pairs := framework.From(p, prefix+KnockOnTopic, framework.Source[KnockOn]{Name: "pairs", OutOfOrder: anyOrder})
	framework.To(processors.Distinct(pairs, "once", anyOrder), foundTopic)
	return p
}

var errStopped = errors.New("the run has stopped")

// toEnd feeds the pipeline and waits for what it makes of it.
func (t *transported) toEnd(ctx context.Context, ran chan error, errOut io.Writer) error {
	select {
	case <-t.Ready():
	case err := <-ran:
		ran <- err
		return errStopped
	}
	feeding := make(chan error, 1)
	go func() { feeding <- t.feed.run(ctx, errOut) }()
	select {
	case err := <-feeding:
		if err != nil {
			return err
		}
	case err := <-ran:
		ran <- err
		t.feed.stop()
		return errors.Join(errStopped, <-feeding)
	}
	flights, weather := t.feed.sent(FlightsTopic), t.feed.sent(WeatherTopic)
	if err := until(ctx, ran, func() bool {
		return t.Counts(t.main.Name(), FlightsTopic).In >= flights && t.Counts(t.main.Name(), WeatherTopic).In >= weather
	}); err != nil {
		return err
	}
	tasks, err := t.closeTopics(ctx)
	if err != nil {
		return err
	}
	if err := until(ctx, ran, func() bool { return t.reached.everywhere(tasks) }); err != nil {
		return err
	}
	if err := until(ctx, ran, func() bool {
		return t.Counts(t.found.Name(), "once").Out >= t.Counts(t.main.Name(), "knock-on").Out
	}); err != nil {
		return err
	}
	t.summary = countUp(t.Runner, t.main.Name())
	t.summary.Flights = t.feed.Counts(t.feed.pipeline.Name(), FlightsTopic).In
	return nil
}

// until looks now and then whether something is so.
func until(ctx context.Context, ran chan error, done func() bool) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case err := <-ran:
			ran <- err
			return errStopped
		case <-ctx.Done():
			return nil // the caller says why
		}
	}
	return nil
}

// finish keeps the summary, which is that of a run over files: rows are counted where files are read, since a topic may hold one twice.
func (t *transported) finish(ctx context.Context) error {
	faults, err := readFaults(ctx, t.feed.local, t.feed.pipeline.DeadLetters())
	if err != nil {
		return err
	}
	text, err := json.Marshal(rest{t.summary, faults})
	if err != nil {
		return err
	}
	return t.state.finish(ctx, text)
}

// rest is what the state keeps of a run over a transport besides the results and their pipeline's faults.
type rest struct {
	Summary Summary           `json:"summary"`
	Faults  []framework.Fault `json:"faults"` // of the feed
}

// result reads back what the run has made. It needs no transport any more.
func (t *transported) result(ctx context.Context) (r result, err error) {
	text, _, err := t.state.store.Get(finishedName)
	if err != nil {
		return r, err
	}
	var rest rest
	if err := json.Unmarshal(text, &rest); err != nil {
		return r, fmt.Errorf("what was kept of the run cannot be read: %w; start over with --fresh", err)
	}
	r.Summary, r.faults = rest.Summary, rest.Faults
	if r.pairs, err = readPairs(ctx, t.local, foundTopic); err != nil {
		return r, err
	}
	for _, pipeline := range []string{"flights", "flights-found"} {
		more, err := readFaults(ctx, t.local, framework.NewPipeline(t.prefix+pipeline).DeadLetters())
		if err != nil && !errors.Is(err, framework.ErrNoTopic) {
			return r, err
		}
		r.faults = append(r.faults, more...)
	}
	return r, nil
}
