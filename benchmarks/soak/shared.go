package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/kafka"
)

// shared is what a schedule needs whose processes share the partitions of a Kafka.
type shared struct {
	*schedule
	broker    *broker
	transport *kafka.Transport
	admin     *kadm.Client
	// asker resubmits, and runs nothing.
	asker *framework.Runner
	fed   chan error
}

// shared runs a schedule of several processes over Kafka.
func (sc *schedule) shared(ctx context.Context, b *broker) (err error) {
	log, err := os.Create(sc.evidence.path("driver.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	sh := &shared{schedule: sc, broker: b, fed: make(chan error, 1)}
	if sh.transport, err = openKafka(ctx, sc.s, slog.New(slog.NewTextHandler(log, nil))); err != nil {
		return err
	}
	defer sh.transport.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.address))
	if err != nil {
		return err
	}
	defer client.Close()
	sh.admin = kadm.NewClient(client)
	memory, err := microstore.Open(microstore.Config{InMemory: true, MemoryBytes: 32 << 20})
	if err != nil {
		return err
	}
	defer memory.Close()
	sh.asker, err = framework.New(framework.Config{Store: memory, Transport: sh.transport, InternalPartitions: sc.s.InternalPartitions}, build(sc.s))
	if err != nil {
		return err
	}
	if err := sh.createTopics(ctx); err != nil {
		return err
	}
	feeding, stop := context.WithCancel(ctx)
	go func() { sh.fed <- sh.feed(feeding) }()
	err = sh.run(ctx)
	stop()
	sc.endAll(syscall.SIGKILL)
	if err == nil && len(sc.problems) == 0 {
		err = sh.deleteTopics(ctx)
	}
	return err
}

const outputPartitions = 2

func (sh *shared) createTopics(ctx context.Context) error {
	for _, name := range []string{"orders", "payments"} {
		if err := sh.transport.CreateTopic(ctx, sh.s.topic(name), sh.s.Partitions); err != nil {
			return err
		}
	}
	for _, name := range outputs {
		if err := sh.transport.CreateTopic(ctx, sh.s.topic(name), outputPartitions); err != nil {
			return err
		}
	}
	return nil
}

func (sh *shared) deleteTopics(ctx context.Context) error {
	all, err := sh.admin.ListTopics(ctx)
	if err != nil {
		return err
	}
	ours := slices.DeleteFunc(all.Names(), func(name string) bool { return !strings.HasPrefix(name, sh.s.Prefix) })
	_, err = sh.admin.DeleteTopics(ctx, ours...)
	return err
}

// feed feeds all chunks in about the time that the settings say.
func (sh *shared) feed(ctx context.Context) error {
	publisher, err := sh.transport.Publisher(framework.PublisherConfig{})
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(sh.s.Seed, 4))
	each := sh.s.feedTime() / time.Duration(len(sh.in.chunks))
	for _, c := range sh.in.chunks {
		for topic, records := range map[string][]framework.Record{"orders": c.orders, "payments": c.payments} {
			if len(records) == 0 {
				continue
			}
			if err := publisher.Publish(ctx, sh.s.topic(topic), records); err != nil {
				return errors.Join(fmt.Errorf("feed: %w", err), publisher.Close())
			}
		}
		if err := pause(ctx, time.Duration(r.Int64N(int64(2*each)))); err != nil {
			return errors.Join(err, publisher.Close())
		}
	}
	return publisher.Close()
}

// run does the plan while the input is fed, then mends all, waits until all has come, and judges it.
func (sh *shared) run(ctx context.Context) error {
	for range members {
		if err := sh.add(); err != nil {
			return err
		}
	}
	if err := sh.strike(ctx); err != nil {
		return err
	}
	if err := sh.awaitFed(ctx); err != nil {
		return err
	}
	if err := sh.drain(ctx); err != nil {
		return err
	}
	signal := syscall.SIGTERM
	if len(sh.problems) > 0 {
		signal = syscall.SIGQUIT // for the stacks
	}
	sh.endAll(signal)
	return sh.judge(ctx, sh.transport)
}

// awaitFed waits until all is fed, and meanwhile looks after the processes.
func (sh *shared) awaitFed(ctx context.Context) error {
	for {
		select {
		case err := <-sh.fed:
			sh.evidence.say("all is fed: %v", err)
			return err
		default:
		}
		if err := sh.pass(ctx, tick); err != nil {
			return err
		}
	}
}

// strike does steps of the plan for the time in which the input is fed.
func (sh *shared) strike(ctx context.Context) error {
	until := time.Now().Add(sh.s.strikeTime())
	for _, p := range sh.plan {
		if time.Now().After(until) {
			break
		}
		if err := sh.pass(ctx, p.Wait); err != nil {
			return err
		}
		sh.evidence.say("%s", p)
		done, err := sh.doShared(ctx, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		if done {
			sh.done[p.Do]++
		}
	}
	return nil
}

func (sh *shared) doShared(ctx context.Context, p step) (bool, error) {
	switch p.Do {
	case killBroker, stopBroker:
		if err := sh.broker.end(ctx, p.Do); err != nil {
			return false, err
		}
		return true, errors.Join(sh.pass(ctx, p.For), sh.broker.start(ctx))
	case freezeBroker:
		if err := sh.broker.freeze(ctx); err != nil {
			return false, err
		}
		m := sh.members[p.Member]
		err := sh.pass(ctx, p.For/2)
		sh.end(m, syscall.SIGKILL, 0)
		return true, errors.Join(err, sh.pass(ctx, p.For/2), sh.broker.thaw(ctx))
	case resubmit:
		sh.resubmit(ctx)
		return true, nil
	case release:
		return true, sh.release(ctx)
	}
	return sh.do(ctx, p)
}

// resubmit resubmits all dead letters, and tells whether that was taken. It may fail while brokers are away.
func (sh *shared) resubmit(ctx context.Context) bool {
	n, err := resubmitAll(ctx, sh.s, sh.asker)
	sh.evidence.say("%d dead letters resubmitted: %v", n, err)
	return err == nil
}

// release deletes what the group has processed from the topics of the sources.
func (sh *shared) release(ctx context.Context) error {
	committed, err := sh.admin.FetchOffsets(ctx, sh.s.pipeline())
	if err != nil {
		sh.evidence.say("the group's positions: %v", err)
		return nil // it is not there yet
	}
	for _, name := range []string{"orders", "payments"} {
		for p := range sh.s.Partitions {
			at, ok := committed.Lookup(sh.s.topic(name), int32(p))
			if !ok || at.At <= 0 {
				continue
			}
			if err := sh.transport.Release(sh.s.topic(name), p, at.At); err != nil {
				return err
			}
		}
	}
	return nil
}
