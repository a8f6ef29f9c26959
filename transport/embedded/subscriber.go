package embedded

import (
	"context"
	"fmt"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/internal/delivery"
)

// subscriber is a framework.EndTeller.
type subscriber struct {
	*delivery.Subscriber
	t *Transport
}

// End implements framework.EndTeller.
func (s subscriber) End(name string, partition int) (int64, bool) {
	s.t.mu.RLock()
	topic := s.t.topics[name]
	s.t.mu.RUnlock()
	if topic == nil || partition < 0 || partition >= len(topic.logs) {
		return 0, false
	}
	return topic.logs[partition].End(), true
}

func (t *topic) subscribe(config framework.SubscriberConfig) ([]delivery.Reader, error) {
	positions := make([]int64, len(t.logs))
	for i, log := range t.logs {
		start, end := log.Start(), log.End()
		position, ok := start, false
		if config.Start != nil {
			position, ok = config.Start(t.name, i)
		}
		switch {
		case !ok:
			if position = start; start > 0 && config.Logger != nil {
				config.Logger.Warn("the oldest records of a topic are gone",
					"topic", t.name, "partition", i, "oldest", start)
			}
		case position < start:
			return nil, fmt.Errorf("embedded: subscribe to %q: partition %d is to be read from offset %d, but the oldest"+
				" record kept is %d: raise Config.RetainBytes or RetainAge, and rebuild what needs the rest", t.name, i, position, start)
		case position > end:
			return nil, fmt.Errorf("embedded: subscribe to %q: partition %d is to be read from offset %d, but it ends at"+
				" %d: the position is of another store", t.name, i, position, end)
		}
		positions[i] = position
	}
	readers := make([]delivery.Reader, len(t.logs))
	for i, log := range t.logs {
		r := &reader{
			topic: t.name, index: i, log: log, position: positions[i],
			events: config.BatchEvents, bytes: config.BatchBytes, wake: make(chan struct{}, 1),
		}
		r.cancel = log.Notify(r.wake)
		readers[i] = r
	}
	return readers, nil
}

// reader reads one partition for the delivery loop. It decodes what one read of the log brings and hands
// it out in parts.
type reader struct {
	topic    string
	index    int
	log      *microstore.Log
	position int64              // of the next record to deliver
	decoded  []framework.Record // from position on
	events   int
	bytes    int
	started  bool
	wake     chan struct{}
	cancel   func()
}

// readBytes bounds what is read at once beyond the first chunk.
const readBytes = 256 << 10

func (r *reader) Next(context.Context) (*framework.Batch, error) {
	if len(r.decoded) == 0 {
		if err := r.fill(); err != nil {
			err = fmt.Errorf("embedded: read partition %d of %q: %w", r.index, r.topic, err)
			return delivery.Failure(r.topic, r.index, r.position, "", err), err
		}
		if len(r.decoded) == 0 && r.started {
			return nil, nil
		}
	}
	r.started = true
	n := r.fit()
	b := &framework.Batch{Topic: r.topic, Partition: r.index, Records: r.decoded[:n:n]}
	r.decoded = r.decoded[n:]
	r.position += int64(n)
	b.Next = r.position
	b.CaughtUp = len(r.decoded) == 0 && r.position == r.log.End()
	return b, nil
}

// fill reads and decodes what comes next, if there is anything.
func (r *reader) fill() error {
	limit := readBytes
	if r.bytes > 0 {
		limit = min(limit, r.bytes)
	}
	chunks, err := r.log.Read(r.position, limit)
	if err != nil || len(chunks) == 0 {
		return err
	}
	count := 0
	for i := range chunks {
		count += min(chunks[i].Count, len(chunks[i].Data)) // a damaged count does not make us allocate
	}
	decoded := make([]framework.Record, 0, count)
	for i := range chunks {
		if decoded, err = decode(decoded, &chunks[i], r.position); err != nil {
			return err
		}
	}
	r.decoded = decoded
	return nil
}

// fit is how many of the decoded records make a batch.
func (r *reader) fit() int {
	n := len(r.decoded)
	if r.events > 0 {
		n = min(n, r.events)
	}
	if r.bytes <= 0 {
		return n
	}
	size := 0
	for i := range n {
		if size += len(r.decoded[i].Value); size > r.bytes {
			return max(i, 1)
		}
	}
	return n
}

func (r *reader) Wake() <-chan struct{} { return r.wake }

func (r *reader) Acked(int64) {}

func (r *reader) Close() { r.cancel() }
