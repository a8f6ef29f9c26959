package framework

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/microstore"
)

// Config says what pipelines run on. Transport is needed, and Store where no transport brings one; the zero value of
// all else is a default.
type Config struct {
	// Store keeps the state. It is opened and closed by the caller. Default: the store of Transport or of the first of
	// Routes that keeps its topics in one.
	Store *microstore.Store
	// Transport carries the topics that are not in Routes.
	Transport Transport
	// Routes names the transport of single topics.
	Routes map[string]Transport
	// Internal carries the topics between the stages of a pipeline; default: Transport or the first of Routes
	// that keeps its topics in Store.
	Internal Transport
	// InternalPartitions is how many partitions internal topics are made with; default 4. It cannot change
	// while there is state.
	InternalPartitions int

	// BatchEvents and BatchBytes bound a batch; default 1000 and 1 MiB. A batch is what has arrived, up to
	// these; nothing waits for one to fill.
	BatchEvents, BatchBytes int
	// InFlight is how many batches of a partition are taken in before the first is committed; default 3.
	InFlight int
	// Lanes is how many keys of a partition are processed at the same time; default: as many as there are processors for
	// the program, by GOMAXPROCS or by what the system gives it, at most microstore.Shards.
	Lanes int
	// OutboxBytes bounds what is decided and not yet taken by a sink, as it is in memory, for each sink, and where
	// partitions are shared out among processes, for each sink of each task; default 32 MiB. When it is reached, intake
	// waits.
	OutboxBytes int64
	// BacklogBytes bounds what is decided and not yet processed by the next stage, as it is on disk, for each
	// partition of the topic between them, where that lives in Store; default 32 MiB. When it is reached, the stage
	// before waits. It is exceeded by at most one round of each of the tasks that write there.
	BacklogBytes int64

	// Retry says how often and how soon an event is tried again after a transient error.
	Retry Retry
	// IdleAfter is the wall time after which a source that has nothing more to read no longer holds back the
	// watermark; when all sources are idle, event time goes on at the pace of the wall clock. Default 1 minute;
	// negative: never.
	IdleAfter time.Duration
	// StopTimeout bounds how long Run goes on with running work and with sending after its context is done;
	// default 30 s.
	StopTimeout time.Duration

	// EventMiddlewares run around each event, as Watermill's handlers' middlewares do; see PerEvent.
	EventMiddlewares []message.HandlerMiddleware
	// Router, when not nil, is called with the router before it runs, to add plugins, decorators and
	// middlewares, which act on batches.
	Router func(*message.Router)
	// Hooks hear of what happens; see Hook.
	Hooks []Hook
	// Logger hears of what an operator should know, such as events that fail. Default: nobody does.
	Logger *slog.Logger
	// Now is the wall clock, for idle sources only; default time.Now.
	Now func() time.Time
}

// PerEvent makes Config.EventMiddlewares of stock Watermill middlewares. Each event becomes a message for
// them, which costs about a microsecond; messages that they produce are not sent.
func PerEvent(middlewares ...message.HandlerMiddleware) []message.HandlerMiddleware {
	return middlewares
}

// Retry bounds the attempts at an event.
type Retry struct {
	// Attempts is how often an event is tried in all; default 5.
	Attempts int
	// First is the wait after the first attempt, doubled after each, up to Most, with jitter; default 100 ms
	// and 10 s.
	First, Most time.Duration
}

// WithDefaults returns a copy in which every field that was left out has its default.
func (c Config) WithDefaults() Config {
	set := func(field *int, value int) {
		if *field == 0 {
			*field = value
		}
	}
	setTime := func(field *time.Duration, value time.Duration) {
		if *field == 0 {
			*field = value
		}
	}
	set(&c.InternalPartitions, 4)
	set(&c.BatchEvents, 1000)
	set(&c.BatchBytes, 1<<20)
	set(&c.InFlight, 3)
	set(&c.Lanes, min(runtime.GOMAXPROCS(0), runtime.NumCPU(), microstore.Shards))
	if c.OutboxBytes == 0 {
		c.OutboxBytes = 32 << 20
	}
	if c.BacklogBytes == 0 {
		c.BacklogBytes = 32 << 20
	}
	set(&c.Retry.Attempts, 5)
	setTime(&c.Retry.First, 100*time.Millisecond)
	setTime(&c.Retry.Most, 10*time.Second)
	setTime(&c.IdleAfter, time.Minute)
	setTime(&c.StopTimeout, 30*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	ours := c.storeTransport()
	if c.Store == nil && ours != nil {
		c.Store = ours.Store()
	}
	if c.Internal == nil && ours != nil {
		c.Internal = ours
	}
	return c
}

// storeTransport is the transport that keeps its topics in Store, or in any store where Store is not given; nil for
// none.
func (c Config) storeTransport() StoreTransport {
	topics := slices.Sorted(maps.Keys(c.Routes))
	for i := -1; i < len(topics); i++ {
		t := c.Transport
		if i >= 0 {
			t = c.Routes[topics[i]]
		}
		if st, ok := t.(StoreTransport); ok && (c.Store == nil || st.Store() == c.Store) {
			return st
		}
	}
	return nil
}

// Validate reports all that is wrong.
func (c Config) Validate() error {
	var errs []error
	positive := func(name string, v int) {
		if v < 0 {
			errs = append(errs, fmt.Errorf("%s is %d; it must be at least 1, or 0 for the default", name, v))
		}
	}
	if c.Store == nil && c.storeTransport() == nil {
		errs = append(errs, errors.New("Store is nil; open one with microstore.Open, or give a Transport that keeps its topics in one, such as that of embedded.Open"))
	}
	if c.Transport == nil && len(c.Routes) == 0 {
		errs = append(errs, errors.New("neither Transport nor Routes say where topics are"))
	}
	notNegative := func(name string, v int64, shown any) {
		if v < 0 {
			errs = append(errs, fmt.Errorf("%s is %v; it cannot be negative", name, shown))
		}
	}
	positive("InternalPartitions", c.InternalPartitions)
	positive("BatchEvents", c.BatchEvents)
	positive("BatchBytes", c.BatchBytes)
	positive("InFlight", c.InFlight)
	positive("Lanes", c.Lanes)
	positive("Retry.Attempts", c.Retry.Attempts)
	notNegative("OutboxBytes", c.OutboxBytes, c.OutboxBytes)
	notNegative("BacklogBytes", c.BacklogBytes, c.BacklogBytes)
	notNegative("Retry.First", int64(c.Retry.First), c.Retry.First)
	notNegative("Retry.Most", int64(c.Retry.Most), c.Retry.Most)
	notNegative("StopTimeout", int64(c.StopTimeout), c.StopTimeout)
	if c.Lanes > microstore.Shards {
		errs = append(errs, fmt.Errorf("Lanes is %d; at most %d", c.Lanes, microstore.Shards))
	}
	for i, hook := range c.Hooks {
		if !hears(hook) {
			errs = append(errs, fmt.Errorf("Hooks[%d], a %T, would hear of nothing: it has none of the methods of the Hook… interfaces, as they are there", i, hook))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("framework: config: %w", errors.Join(errs...))
	}
	return nil
}

// transportOf returns the transport of a topic.
func (c Config) transportOf(topic string) (Transport, error) {
	if t, ok := c.Routes[topic]; ok {
		return t, nil
	}
	if c.Transport == nil {
		return nil, fmt.Errorf("topic %q is not in Routes, and there is no Transport for the rest", topic)
	}
	return c.Transport, nil
}
