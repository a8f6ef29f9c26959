package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/embedded"
)

// feeder feeds a pipeline in its own process, whose topics are in its store: how much was fed is in the commits that feed.
type feeder struct {
	s      *settings
	in     *input
	store  *microstore.Store
	topics *embedded.Transport
	runner *framework.Runner
}

const (
	fedKey        = "fed" // how many chunks were fed
	resubmitEvery = 2 * time.Second
)

// run returns nil when all that is due has come.
func (f *feeder) run(ctx context.Context) error {
	select {
	case <-f.runner.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := f.feed(ctx); err != nil {
		return err
	}
	c := newChecker(f.s, f.in, f.topics)
	asked := time.Now()
	for {
		if err := c.read(ctx); err != nil {
			return err
		}
		missing := c.missing()
		if len(missing) == 0 {
			fmt.Println("all is there")
			return nil
		}
		fmt.Println("missing", missing)
		if !f.s.broken() && time.Since(asked) > resubmitEvery {
			if err := f.resubmit(ctx); err != nil {
				return err
			}
			asked = time.Now()
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

// feed feeds what has not been fed.
func (f *feeder) feed(ctx context.Context) error {
	n := 0
	text, ok, err := f.store.Get(fedKey)
	if ok && err == nil {
		n, err = strconv.Atoi(string(text))
	}
	for ; err == nil && n < len(f.in.chunks); n++ {
		if n%20 == 19 {
			if err := f.resubmit(ctx); err != nil {
				return err
			}
		}
		if err := f.append(ctx, f.in.chunks[n], n+1); err != nil {
			return err
		}
		err = pause(ctx, f.s.feedTime()/time.Duration(len(f.in.chunks)))
	}
	return err
}

func (f *feeder) append(ctx context.Context, c chunk, fed int) error {
	b := f.store.NewBatch()
	for topic, records := range map[string][]framework.Record{"orders": c.orders, "payments": c.payments} {
		partitions := make([][]framework.Record, f.s.Partitions)
		for _, r := range records {
			p := framework.Partition(r.Key, f.s.Partitions)
			partitions[p] = append(partitions[p], r)
		}
		for p, records := range partitions {
			if len(records) == 0 {
				continue
			}
			if err := f.topics.Append(b, f.s.topic(topic), p, records); err != nil {
				return err
			}
		}
	}
	b.Put(fedKey, []byte(strconv.Itoa(fed)))
	return f.store.Commit(ctx, b)
}

func (f *feeder) resubmit(ctx context.Context) error {
	n, err := resubmitAll(ctx, f.s, f.runner)
	fmt.Println(time.Now().Format(clock), "resubmitted", n)
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
