package harness

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// first is how many records are sent to see whether a system reads.
const first = 100

var errNoRate = errors.New("its throughput is not known: run the mode throughput first, or the mode equal")

// equalRate is in records a second, unless another is asked for. It is about half of what the slowest system reaches.
const equalRate = 6000

// rate is the one for all, or half of what the system reaches with the same workload; of several sizes, the least.
func (c *comparison) rate(r Run) (float64, error) {
	if r.Mode == Equal {
		return cmp.Or(c.Rate, equalRate), nil
	}
	results, err := Read(c.Results)
	if err != nil {
		return 0, err
	}
	bySize := map[int][]Result{}
	for _, past := range results {
		if past.OK() && past.Mode == Throughput && past.Workload == r.Workload && past.System == r.System {
			bySize[past.Orders] = append(bySize[past.Orders], past)
		}
	}
	least := math.Inf(1)
	for _, some := range bySize {
		least = min(least, over(some, Result.PerSecond).median)
	}
	if math.IsInf(least, 1) {
		return 0, errNoRate
	}
	return least / 2, nil
}

// arrival is an output as the reader had it.
type arrival struct {
	key, value []byte
	at         time.Time
}

// latency measures a system that gets its input at a rate.
func (t *trial) latency(ctx context.Context, rate float64) (fault, err error) {
	p, err := t.start()
	if err != nil {
		return nil, err
	}
	defer p.stop()
	f := newFeed(t.broker, t.set, t.ordered, t.paid)
	f.written = make([]int64, t.set.Inputs())
	for i := range first {
		f.send(ctx, i)
	}
	wait, cancel := context.WithTimeout(ctx, t.Patience)
	defer cancel()
	if fault := p.consuming(wait); fault != nil {
		return fault, nil
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	read := make(chan []arrival, 1)
	go func() { read <- t.read(reading) }()
	pace := pace{time.Now(), first, rate}
	err = f.follow(ctx, pace, t.set.Inputs())
	if err == nil {
		var last time.Time
		var used usage
		last, used, fault, err = t.drained(ctx, p)
		t.result.Seconds, t.result.CPU = last.Sub(p.firstAt).Seconds(), used.cpu-p.used.cpu
	}
	t.result.PeakRSS, t.result.PeakAnonymous = peakRSS(p.cmd.Process.Pid), p.anonymous.Load()
	if err == nil {
		err = sleep(ctx, time.Second) // for the reader to have the last
	}
	stop()
	arrivals := <-read
	if err != nil {
		return nil, err
	}
	t.result.Rate = rate
	t.result.P50, t.result.P99 = t.percentiles(arrivals, f.causes(), pace)
	t.result.InputP50, t.result.InputP99 = f.percentiles(pace, pace.began.Add(t.WarmUp))
	return fault, nil
}

// read collects outputs until ctx is done. They are looked at later, so that reading does not take from what is measured.
func (t *trial) read(ctx context.Context) []arrival {
	var all []arrival
	client, err := t.broker.reader(t.out)
	if err != nil {
		return nil
	}
	defer client.Close()
	for ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		now := time.Now()
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				all = append(all, arrival{r.Key, r.Value, now})
			}
		})
	}
	return all
}

// percentiles checks the outputs and returns seconds from when their last cause was due to be sent. Outputs of what came
// while the system warmed up do not count.
func (t *trial) percentiles(arrivals []arrival, causes []int, p pace) (p50, p99 float64) {
	from := p.began.Add(t.WarmUp)
	var all []float64
	for _, a := range arrivals {
		order, fresh := t.tally.Add(a.key, a.value)
		if !fresh || causes[order] < p.first {
			continue
		}
		if due := p.due(causes[order]); due.After(from) {
			all = append(all, a.at.Sub(due).Seconds())
		}
	}
	return middleAndMost(all)
}

// percentiles returns seconds from when an input was due to be sent, to when its topic had it: what of a latency is the
// producer's and the broker's. Inputs that were due before from do not count.
func (f *feed) percentiles(p pace, from time.Time) (p50, p99 float64) {
	var all []float64
	for i := p.first; i < len(f.written); i++ {
		if due := p.due(i); due.After(from) {
			all = append(all, time.Unix(0, f.written[i]).Sub(due).Seconds())
		}
	}
	return middleAndMost(all)
}

// middleAndMost returns what half of all are below, and what 99 of 100 are.
func middleAndMost(all []float64) (p50, p99 float64) {
	if len(all) == 0 {
		return 0, 0
	}
	slices.Sort(all)
	at := func(part float64) float64 { return all[int(math.Ceil(part*float64(len(all))))-1] }
	return at(0.50), at(0.99)
}
