package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/millrace/millrace/benchmarks/peers/internal/orders"
)

// settle is how long nothing more may come before a run is over: what comes twice should be counted.
const settle = time.Second

// trial is one run.
type trial struct {
	*comparison
	run            Run
	set            orders.Set
	id, out, state string
	ordered, paid  string
	command, env   []string
	logName        string
	tally          *orders.Tally
	result         Result
}

// one does a run. An error is of the broker or of this machine; what is wrong with the system is in the result.
func (c *comparison) one(ctx context.Context, r Run) (result Result, err error) {
	rate, set := 0.0, r.set()
	switch r.Mode {
	case Latency, Equal:
		if rate, err = c.rate(r); err != nil {
			return Result{}, err
		}
		set = set.With(first + int(rate*(c.WarmUp+c.Measure).Seconds()))
	case Kill:
		set = set.With(int(c.killRate() * (c.WarmUp + c.Measure).Seconds()))
	}
	t, err := c.trial(ctx, r, set)
	if err != nil {
		return Result{}, err
	}
	defer func() {
		// Also where ctx is done: what was made is to go.
		rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		err = errors.Join(err, os.RemoveAll(t.state), c.broker.clean(rest, t.id))
	}()
	var fault error
	switch r.Mode {
	case Throughput:
		fault, err = t.throughput(ctx)
	case Latency, Equal:
		fault, err = t.latency(ctx, rate)
	case Kill:
		fault, err = t.killed(ctx)
	}
	if fault == nil {
		fault = t.tally.Err()
	}
	t.result.Due, t.result.Missing, t.result.Again, t.result.Wrong = t.tally.Due, t.tally.Missing(), t.tally.Again, t.tally.Wrong
	if fault != nil {
		t.result.Fault = fault.Error()
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return t.result, err
}

// trial makes what a run needs: names, an empty directory, an output topic, and where input is not there already, topics
// for it.
func (c *comparison) trial(ctx context.Context, r Run, set orders.Set) (*trial, error) {
	command, err := c.builder.command(ctx, r.system())
	if err != nil {
		return nil, err
	}
	id := fmt.Sprintf("bench-%s-%s-%s-%s", r.Workload, r.Mode, r.System, strconv.FormatInt(time.Now().UnixMicro(), 36))
	t := &trial{
		comparison: c, run: r, set: set, id: id, out: id + "-out", command: command, tally: orders.NewTally(set),
		state: filepath.Join(c.Dir, "state", id), logName: filepath.Join(c.Dir, "logs", id+".log"),
		result: Result{
			At: time.Now().UTC().Truncate(time.Second), Machine: c.machine, Mode: r.Mode, Workload: r.Workload, System: r.System,
			Orders: r.Orders, Inputs: set.Inputs(), Processors: c.Processors, Empty: r.Empty,
		},
	}
	if _, _, ok := processors(c.Processors); !ok {
		t.result.Processors = -1
	}
	made := []string{t.out}
	if t.ordered, t.paid = inputs(set); r.Mode != Throughput {
		t.ordered, t.paid = id+"-orders", id+"-payments"
		made = append(made, t.ordered, t.paid)
	}
	t.env = []string{
		"BENCH_WORKLOAD=" + r.Workload, "BENCH_BROKERS=" + c.Brokers, "BENCH_ORDERS=" + t.ordered, "BENCH_PAYMENTS=" + t.paid,
		"BENCH_OUT=" + t.out, "BENCH_GROUP=" + id, "BENCH_STATE=" + t.state,
	}
	if err := os.MkdirAll(t.state, 0o755); err != nil {
		return nil, err
	}
	return t, c.broker.create(ctx, made...)
}

func (t *trial) start() (*process, error) {
	return start(t.command, slices.Concat(t.env, t.run.system().Env), t.logName, t.BrokerPID)
}

// throughput measures a system that has all of its input before it.
func (t *trial) throughput(ctx context.Context) (fault, err error) {
	p, err := t.start()
	if err != nil {
		return nil, err
	}
	defer p.stop()
	last, used, fault, err := t.drained(ctx, p)
	if fault != nil || err != nil {
		return fault, err
	}
	if fault := p.consuming(ctx); fault != nil {
		return fault, nil
	}
	t.result.Seconds, t.result.SecondsWithStart = last.Sub(p.firstAt).Seconds(), last.Sub(p.began).Seconds()
	t.result.CPU, t.result.CPUWithStart, t.result.BrokerCPU = used.cpu-p.used.cpu, used.cpu, used.broker-p.used.broker
	t.result.PeakRSS, t.result.PeakAnonymous = peakRSS(p.cmd.Process.Pid), p.anonymous.Load()
	p.stop()
	t.result.State = diskUse(t.state)
	return nil, t.broker.check(ctx, t.out, t.tally)
}

// drained waits until as many outputs can be read as are due, and no more come. It returns when the last came, and what had
// been used by then.
func (t *trial) drained(ctx context.Context, p *process) (last time.Time, used usage, fault, err error) {
	var count int64
	last = time.Now()
	for {
		n, err := t.broker.readable(ctx, t.out)
		if err != nil {
			return last, used, nil, err
		}
		switch now := time.Now(); {
		case n != count:
			count, last, used = n, now, usageOf(p.cmd.Process.Pid, t.BrokerPID)
		case count >= int64(t.tally.Due) && now.Sub(last) > settle:
			return last, used, nil, nil
		case now.Sub(last) > t.Patience:
			return last, used, fmt.Errorf("no output for %s; %d of %d are there", t.Patience, count, t.tally.Due), nil
		}
		select {
		case <-p.done:
			return last, used, p.ended(), nil
		case <-ctx.Done():
			return last, used, nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
