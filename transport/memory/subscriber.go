package memory

import (
	"context"
	"fmt"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/internal/delivery"
)

// subscribe makes a reader for each partition and counts the group among those who hold records back.
func (t *topic) subscribe(config framework.SubscriberConfig) ([]delivery.Reader, error) {
	group := "batch/" + config.Group
	starts := make([]int64, len(t.partitions))
	known := make([]bool, len(t.partitions))
	if config.Start != nil {
		for i := range starts {
			starts[i], known[i] = config.Start(t.name, i) // without the lock: it is not our code
		}
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range starts {
		p := &t.partitions[i]
		switch {
		case !known[i]:
			if starts[i] = p.start; p.start > 0 && config.Logger != nil {
				config.Logger.Warn("the oldest records of a topic are gone",
					"topic", t.name, "partition", i, "oldest", p.start)
			}
		case starts[i] < p.start:
			return nil, fmt.Errorf("memory: subscribe to %q: partition %d is to be read from position %d, but the"+
				" oldest record kept is %d: raise Config.RetainEvents or RetainBytes", t.name, i, starts[i], p.start)
		case starts[i] > p.end:
			return nil, fmt.Errorf("memory: subscribe to %q: partition %d is to be read from position %d, but it ends"+
				" at %d: the position is of another topic or an earlier process", t.name, i, starts[i], p.end)
		}
	}
	t.readers[group] = &progress{acked: append([]int64(nil), starts...)}
	t.madeRoom()
	readers := make([]delivery.Reader, len(starts))
	for i, start := range starts {
		readers[i] = &reader{
			topic: t, group: group, index: i, position: start,
			events: config.BatchEvents, bytes: int64(config.BatchBytes), wake: make(chan struct{}, 1),
		}
	}
	return readers, nil
}

// reader reads one partition for the delivery loop.
type reader struct {
	topic    *topic
	group    string
	index    int
	position int64
	events   int
	bytes    int64
	started  bool
	wake     chan struct{}
}

func (r *reader) Next(context.Context) (*framework.Batch, error) {
	t := r.topic
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &t.partitions[r.index]
	if r.position < p.start {
		err := fmt.Errorf("memory: read %q: records %d to %d of partition %d are gone: another subscriber of group %q"+
			" has acknowledged them", t.name, r.position, p.start-1, r.index, r.group[len("batch/"):])
		return delivery.Failure(t.name, r.index, r.position, "", err), err
	}
	if r.position == p.end && r.started && !t.ended {
		p.await(r.wake)
		return nil, nil
	}
	r.started = true
	b := &framework.Batch{Topic: t.name, Partition: r.index}
	if r.position < p.end {
		b.Records = p.from(r.position, r.events, r.bytes)
	}
	r.position += int64(len(b.Records))
	b.Next = r.position
	b.CaughtUp = r.position == p.end
	b.End = b.CaughtUp && t.ended
	return b, nil
}

func (r *reader) Wake() <-chan struct{} { return r.wake }

func (r *reader) Acked(position int64) { r.topic.acked(r.group, r.index, position) }

func (r *reader) Close() {
	r.topic.mu.Lock()
	defer r.topic.mu.Unlock()
	r.topic.partitions[r.index].leave(r.wake)
}
