package kafka

import (
	"context"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/internal/delivery"
)

// reader holds what was fetched of one partition and hands it out in batches. The consumer puts, one delivery loop
// takes.
type reader struct {
	consumer *consumer
	at       place
	events   int // bounds of a batch
	bytes    int
	decoder  decoder
	started  bool // something was delivered; of the loop
	failed   bool // the failure was; of the loop
	wake     chan struct{}

	mu       sync.Mutex
	position int64           // of the next record to deliver
	next     int64           // of the next record to be put
	end      int64           // where the partition ended when last heard of
	records  [][]*kgo.Record // fetched, not delivered
	held     int             // bytes of records
	paused   bool
	err      error // what ends the partition, behind the records
}

func newReader(c *consumer, at place, position, end int64, config *framework.SubscriberConfig) *reader {
	return &reader{
		consumer: c, at: at, position: position, next: position, end: end,
		events: config.BatchEvents, bytes: config.BatchBytes, wake: make(chan struct{}, 1),
	}
}

// put takes what was fetched, and pauses the partition when that is much.
func (r *reader) put(records []*kgo.Record, end int64) {
	size := 0
	for _, k := range records {
		size += sizeOf(k) + recordBytes
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end = max(r.end, end)
	if len(records) > 0 {
		r.records = append(r.records, records)
		r.held += size
		r.next = records[len(records)-1].Offset + 1
	}
	if !r.paused && r.held >= r.consumer.config.ReadBytes {
		r.paused = true
		r.consumer.pause(r.at) // under the lock, as resume: their order is that of paused
	}
	r.notify()
}

// recordBytes is about what a record takes in memory beside its bytes.
const recordBytes = 200

// fail ends the partition behind what was put.
func (r *reader) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
	r.notify()
}

// fetched is the position behind all that was put.
func (r *reader) fetched() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next
}

// skipTo notes that there is nothing to read before a position.
func (r *reader) skipTo(position int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next = position
	r.end = max(r.end, position)
	if len(r.records) == 0 {
		r.position = position
	}
}

func (r *reader) notify() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Next implements delivery.Reader.
func (r *reader) Next(context.Context) (*framework.Batch, error) {
	taken, b, err := r.take()
	if err != nil {
		return delivery.Failure(r.at.topic, int(r.at.partition), b.Next, "", err), err
	}
	if b == nil {
		return nil, nil
	}
	b.Records = make([]framework.Record, len(taken))
	n := 0
	for _, k := range taken {
		if !k.Attrs.IsControl() {
			r.decoder.decode(&b.Records[n], k)
			n++
		}
	}
	b.Records = b.Records[:n]
	return b, nil
}

// take takes the records of a batch; no batch when there is nothing to say.
func (r *reader) take() (taken []*kgo.Record, b *framework.Batch, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.records) == 0 {
		switch {
		case r.err != nil && !r.failed:
			r.failed = true
			return nil, &framework.Batch{Next: r.position}, r.err
		case r.started || r.position < r.end || r.err != nil:
			return nil, nil, nil
		}
	}
	r.started = true
	b = &framework.Batch{Topic: r.at.topic, Partition: int(r.at.partition)}
	if len(r.records) > 0 {
		taken = r.fit()
		r.position = taken[len(taken)-1].Offset + 1
	}
	b.Next = r.position
	b.CaughtUp = len(r.records) == 0 && r.position >= r.end
	if r.paused && r.held <= r.consumer.config.ReadBytes/readParts {
		r.paused = false
		r.consumer.resume(r.at)
	}
	return taken, b, nil
}

// enough records make a batch that no others are added to: to what they cost, a commit of their own adds little.
const enough = 500

// fit takes what fits a batch of a fetch, at least one record, and of the next ones while that is not enough. Small ones
// wait when the engine was busy; a batch for each would be a commit for each, and it would take the engine long to catch up.
func (r *reader) fit() (taken []*kgo.Record) {
	size, full := 0, false
	for !full && len(r.records) > 0 && len(taken) < enough {
		first, n := r.records[0], 0
		for n < len(first) {
			one, before := sizeOf(first[n]), len(taken)+n
			full = r.events > 0 && before >= r.events || r.bytes > 0 && before > 0 && size+one > r.bytes
			if full {
				break
			}
			size += one
			n++
		}
		if taken == nil {
			taken = first[:n:n] // mostly there is no more
		} else {
			taken = append(taken, first[:n]...)
		}
		if n < len(first) {
			r.records[0] = first[n:]
			break
		}
		r.records[0] = nil
		r.records = r.records[1:]
	}
	r.held -= size + len(taken)*recordBytes
	return taken
}

// Wake implements delivery.Reader.
func (r *reader) Wake() <-chan struct{} { return r.wake }

// Acked implements delivery.Reader: the position is kept with the engine's state.
func (r *reader) Acked(int64) {}

// Close implements delivery.Reader.
func (r *reader) Close() { r.consumer.remove(r) }
