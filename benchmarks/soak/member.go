package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/embedded"
	"github.com/millrace/millrace/transport/kafka"
)

// memberEnv names the variable that makes a process of this program a member: what it is told, as JSON.
const memberEnv = "MILLRACE_SOAK_MEMBER"

// told is what a process of the pipeline is told.
type told struct {
	Settings settings
	Dir      string
	Fate     fate
}

// isMember runs a member where this process is to be one, and says how it ends.
func isMember() (code int, member bool) {
	text, member := os.LookupEnv(memberEnv)
	if !member {
		return 0, false
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := runMember(ctx, text); err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) { // before it was connected
			return 0, true
		}
		fmt.Fprintln(os.Stderr, "soak:", err)
		return 1, true
	}
	return 0, true
}

func runMember(ctx context.Context, text string) error {
	var t told
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return fmt.Errorf("%s: %w", memberEnv, err)
	}
	t.Fate.arm()
	s := &t.Settings
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	store, err := microstore.Open(microstore.Config{Dir: t.Dir, MemoryBytes: s.MemoryBytes})
	if err != nil {
		return err
	}
	config := framework.Config{
		Store: store, IdleAfter: -1, Lanes: s.Lanes, BatchEvents: s.BatchEvents, InFlight: s.InFlight, OutboxBytes: s.OutboxBytes,
		InternalPartitions: s.InternalPartitions, Logger: logger, Retry: framework.Retry{First: time.Millisecond}, Hooks: []framework.Hook{tasks{}},
	}
	if s.Kind == embeddedKind {
		return errors.Join(runEmbedded(ctx, s, config), store.Close())
	}
	return errors.Join(runShared(ctx, s, config), store.Close())
}

func runShared(ctx context.Context, s *settings, config framework.Config) error {
	transport, err := openKafka(ctx, s, config.Logger)
	if err != nil {
		return err
	}
	defer transport.Close()
	config.Transport = transport
	runner, err := framework.New(config, build(s))
	if err != nil {
		return err
	}
	return runner.Run(ctx)
}

// openKafka connects so that little time goes by until somebody who is gone is given up, and much until the brokers are.
func openKafka(ctx context.Context, s *settings, logger *slog.Logger) (*kafka.Transport, error) {
	address := fmt.Sprintf("kafka://%s?session_timeout=%s&rebalance_timeout=10s&replicas=1&wait=3m&delivery_timeout=150s&commit_interval=%s",
		s.Brokers, session, s.CommitInterval)
	c, err := kafka.Parse(address)
	if err != nil {
		return nil, err
	}
	c.Logger = logger
	return kafka.New(ctx, c)
}

// runEmbedded runs the pipeline in one process, which also feeds it, and returns nil without being asked when all that is due
// has come: nobody else can open its store.
func runEmbedded(ctx context.Context, s *settings, config framework.Config) error {
	topics, err := embedded.New(config.Store, embedded.Config{})
	if err != nil {
		return err
	}
	for _, name := range []string{"orders", "payments"} {
		if err := topics.CreateTopic(ctx, s.topic(name), s.Partitions); err != nil {
			return err
		}
	}
	config.Transport = topics
	runner, err := framework.New(config, build(s))
	if err != nil {
		return err
	}
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	fed := make(chan error, 1)
	go func() {
		defer cancel()
		f := &feeder{s: s, in: newInput(s), store: config.Store, topics: topics, runner: runner}
		fed <- f.run(inner)
	}()
	err = runner.Run(inner)
	cancel()
	if fedErr := <-fed; !errors.Is(fedErr, context.Canceled) {
		err = errors.Join(err, fedErr)
	}
	return err
}

// resubmitAll resubmits all dead letters that are not late.
func resubmitAll(ctx context.Context, s *settings, runner *framework.Runner) (int, error) {
	var all []framework.Fault
	err := runner.DeadLetters(ctx, s.pipeline(), func(f framework.Fault) error {
		if f.Class != framework.ClassLate {
			all = append(all, f)
		}
		return nil
	})
	if err != nil || len(all) == 0 {
		return 0, err
	}
	return len(all), runner.Resubmit(ctx, all...)
}

// tasks writes the tasks that come, catch up and go.
type tasks struct{}

func (tasks) OnTask(i framework.TaskInfo) {
	fmt.Println(time.Now().Format(clock), "task", strings.TrimPrefix(i.Task, "soak"), i.State, i.Behind, i.Target)
}

const clock = "15:04:05.000"
