package framework

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/internal/seldom"
)

// Runner runs pipelines on a Watermill router.
type Runner struct {
	config Config
	stages []*stage

	env      *env
	cut      context.CancelFunc // of env.ctx
	sets     []*taskSet         // of the stages
	relays   []*relay           // of topics; those of shared tasks are theirs
	handlers []handler
	failOnce sync.Once
	failed   chan struct{}
	failure  error

	setsLock sync.RWMutex // guards sets against being read from outside

	opening context.Context // in which tasks are opened, and what for that is needed is waited for
	noMore  context.CancelFunc

	lock    sync.RWMutex // read-locked while a task is opened: those of several groups are at the same time
	running bool
	ready   chan struct{}
}

// handler is one subscription of the router.
type handler struct {
	name, topic string
	subscriber  message.Subscriber
	set         *taskSet
	fail        func(error)
}

// New checks the configuration and the pipelines, and reports all that is wrong. Nothing is opened yet.
func New(config Config, pipelines ...*Pipeline) (*Runner, error) {
	errs := []error{config.Validate()}
	if len(pipelines) == 0 {
		errs = append(errs, errors.New("framework: no pipeline to run"))
	}
	seen := map[string]bool{}
	r := &Runner{config: config.WithDefaults(), failed: make(chan struct{}), ready: make(chan struct{})}
	for i, p := range pipelines {
		if p == nil {
			errs = append(errs, fmt.Errorf("framework: pipeline %d of %d is nil", i+1, len(pipelines)))
			continue
		}
		if seen[p.name] {
			errs = append(errs, fmt.Errorf("framework: two pipelines are named %q", p.name))
		}
		seen[p.name] = true
		stages, err := p.stages()
		errs = append(errs, err)
		r.stages = append(r.stages, stages...)
	}
	return r, errors.Join(errs...)
}

// Run checks that topics and state fit the pipelines, then runs them until ctx is done, all sources have ended,
// or something fails that nothing can go on after. When ctx is done, intake stops, what is running is
// finished and committed, outputs are sent, for at most Config.StopTimeout; Run then returns nil. A
// Runner runs once.
func (r *Runner) Run(ctx context.Context) error {
	r.lock.Lock()
	if r.running {
		r.lock.Unlock()
		return errors.New("framework: this Runner has run already; make another with New")
	}
	r.running = true
	r.lock.Unlock()

	running, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	r.cut = cut
	r.opening, r.noMore = context.WithCancel(running)
	defer r.noMore()
	r.env = &env{
		config: r.config, hooks: sortHooks(r.config.Hooks), ctx: running,
		sinks: map[string]*sinkTarget{}, told: new(seldom.Kinds[faultKind]), fail: r.fail,
	}
	if err := r.setup(ctx); err != nil {
		return errors.Join(err, r.closePublishers())
	}
	if err := r.subscribe(running); err != nil {
		return errors.Join(err, r.abandon())
	}
	router, err := r.router()
	if err != nil {
		return errors.Join(err, r.abandon())
	}
	return r.serve(ctx, router)
}

// Ready is closed when all sources are subscribed.
func (r *Runner) Ready() <-chan struct{} { return r.ready }

func (r *Runner) fail(err error) {
	r.failOnce.Do(func() {
		r.failure = err
		close(r.failed)
	})
}

func (r *Runner) router() (*message.Router, error) {
	levels := map[slog.Level]slog.Level{slog.LevelInfo: slog.LevelDebug}
	logger := watermill.NewSlogLoggerWithLevelMapping(r.config.Logger, levels)
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: r.config.StopTimeout}, logger)
	if err != nil {
		return nil, fmt.Errorf("framework: router: %w", err)
	}
	if r.config.Router != nil {
		r.config.Router(router)
	}
	for _, h := range r.handlers {
		router.AddConsumerHandler(h.name, h.topic, h.subscriber, h.handle)
	}
	return router, nil
}

// handle is what the router calls for each batch.
func (h handler) handle(msg *message.Message) error {
	b, ok := BatchOf(msg)
	if !ok { // and refusing it is not enough: it would be delivered again and again
		err := fmt.Errorf("framework: topic %q: its transport's subscriber sends single messages, not batches; "+
			"transport/stock makes a transport of any Watermill Pub/Sub", h.topic)
		h.fail(err)
		return err
	}
	t := h.set.get(b.Partition)
	if t == nil && len(b.Records) == 1 && b.Records[0].Err != nil && ClassOf(b.Records[0].Err) == ClassFatal {
		if errors.Is(b.Records[0].Err, errStopping) { // the partition was assigned while this process stops
			return errStopping
		}
		err := fmt.Errorf("framework: %s: %w", h.name, b.Records[0].Err) // the transport says why there is no task
		h.fail(err)
		return err
	}
	if b.Partition < 0 || b.Partition >= h.set.partitions() {
		return fmt.Errorf("framework: topic %q: a batch of partition %d; there were %d partitions at the start",
			h.topic, b.Partition, h.set.partitions())
	}
	if t == nil { // it has gone to another process
		return errStopping
	}
	return t.submit(h.topic, b)
}

func (r *Runner) serve(ctx context.Context, router *message.Router) error {
	sending, stopSending := context.WithCancel(r.env.ctx)
	defer stopSending()
	for _, relay := range r.relays {
		go relay.run(sending)
	}
	for _, t := range r.live() {
		if t.own == nil {
			go t.run()
		}
	}
	routed := make(chan error, 1)
	go func() { routed <- router.Run(r.env.ctx) }()
	go func() {
		select {
		case <-router.Running():
			close(r.ready)
		case <-r.env.ctx.Done():
		}
	}()
	var routerErr error
	ended := false
	select {
	case <-ctx.Done():
	case <-r.failed:
	case <-r.allEnded():
		ended = true
	case routerErr = <-routed:
		if routerErr == nil {
			routerErr = errors.New("all subscriptions were closed")
		}
		routerErr = fmt.Errorf("framework: router: %w", routerErr)
		routed = nil
	}
	err := errors.Join(routerErr, r.shutdown(router, routed))
	if ended {
		err = errors.Join(err, r.stillHeld())
	}
	return err
}

// allEnded is closed when every task has ended. Topics that are shared out do not end.
func (r *Runner) allEnded() <-chan struct{} {
	all := make(chan struct{})
	for _, set := range r.sets {
		if set.stage.shared != nil {
			return all
		}
	}
	go func() {
		for _, t := range r.live() {
			select {
			case <-t.ended:
			case <-t.stopped:
				return
			}
		}
		close(all)
	}()
	return all
}
