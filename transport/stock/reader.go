package stock

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/internal/delivery"
)

// reader collects the messages of one subscription and makes batches of them. One goroutine receives from the Pub/Sub,
// as long as there is room for what comes; the delivery's loop takes batches. A message stays with the reader, in
// waiting or in out, until it is acknowledged or refused.
//
// An offset is the place of a message in the subscription: 0, 1, 2, …
type reader struct {
	topic         string
	messages      <-chan *message.Message
	cancel        context.CancelFunc
	events, bytes int // bounds of a batch, and of what waits
	linger        time.Duration
	wake          chan struct{}
	collected     chan struct{} // closed when the subscription's channel is

	lock         sync.Mutex
	waiting      []*message.Message // not yet in a batch
	waitingBytes int
	out          []*message.Message // in batches that are not acknowledged
	next         int64              // offset of the next message that is put into a batch
	space        chan struct{}      // closed when there is room again; nil while nobody waits for it
	ended        bool               // the Pub/Sub delivers no more
	closed       bool
}

func newReader(topic string, messages <-chan *message.Message, cancel context.CancelFunc,
	engine framework.SubscriberConfig, linger time.Duration,
) *reader {
	r := &reader{
		topic: topic, messages: messages, cancel: cancel, linger: linger,
		events: max(engine.BatchEvents, 1), bytes: max(engine.BatchBytes, 1),
		wake: make(chan struct{}, 1), collected: make(chan struct{}),
	}
	go r.collect()
	return r
}

// collect receives until the channel is closed; after Close it refuses what still comes.
func (r *reader) collect() {
	defer close(r.collected)
	for {
		if full := r.full(); full != nil {
			<-full
			continue
		}
		msg, ok := <-r.messages
		r.lock.Lock()
		switch {
		case !ok:
			r.ended = true
		case r.closed:
			msg.Nack()
		default:
			r.waiting = append(r.waiting, msg)
			r.waitingBytes += size(msg)
		}
		r.lock.Unlock()
		select {
		case r.wake <- struct{}{}:
		default:
		}
		if !ok {
			return
		}
	}
}

// full returns nil while there is room, else what is closed when there is room again.
func (r *reader) full() <-chan struct{} {
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.closed || len(r.waiting) < r.events && r.waitingBytes < r.bytes {
		return nil
	}
	if r.space == nil {
		r.space = make(chan struct{})
	}
	return r.space
}

// makeRoom wakes collect. The lock is held.
func (r *reader) makeRoom() {
	if r.space != nil {
		close(r.space)
		r.space = nil
	}
}

func size(msg *message.Message) int {
	n := len(msg.UUID) + len(msg.Payload)
	for k, v := range msg.Metadata {
		n += len(k) + len(v)
	}
	return n
}

// Next makes a batch of what waits.
func (r *reader) Next(context.Context) (*framework.Batch, error) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if len(r.waiting) == 0 {
		if !r.ended || r.closed {
			return nil, nil
		}
		err := fmt.Errorf("stock: topic %q: %w", r.topic, ErrEnded)
		return delivery.Failure(r.topic, 0, r.next, "", err), err
	}
	n, bytes := 0, 0
	for n < len(r.waiting) && n < r.events {
		if bytes += size(r.waiting[n]); n > 0 && bytes > r.bytes {
			break
		}
		n++
	}
	b := &framework.Batch{Topic: r.topic, Records: make([]framework.Record, n), CaughtUp: n == len(r.waiting)}
	for i, msg := range r.waiting[:n] {
		b.Records[i] = framework.FromMessage(msg)
		b.Records[i].Offset = r.next
		r.next++
		r.waitingBytes -= size(msg)
	}
	b.Next = r.next
	r.out = append(r.out, r.waiting[:n]...)
	rest := copy(r.waiting, r.waiting[n:])
	clear(r.waiting[rest:])
	r.waiting = r.waiting[:rest]
	r.makeRoom()
	return b, nil
}

// Wake receives when something has arrived.
func (r *reader) Wake() <-chan struct{} { return r.wake }

// Acked acknowledges the messages before an offset, in their order.
func (r *reader) Acked(position int64) {
	r.lock.Lock()
	defer r.lock.Unlock()
	n := len(r.out) - int(r.next-position)
	for _, msg := range r.out[:n] {
		msg.Ack()
	}
	rest := copy(r.out, r.out[n:])
	clear(r.out[rest:])
	r.out = r.out[:rest]
}

// Linger is how long batches that are out may settle after the end of delivery.
func (r *reader) Linger() time.Duration { return r.linger }

// Close refuses what is not acknowledged and cancels the subscription.
func (r *reader) Close() {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.closed = true
	for _, msg := range append(r.out, r.waiting...) {
		msg.Nack()
	}
	r.cancel()
	r.out, r.waiting, r.waitingBytes = nil, nil, 0
	r.makeRoom()
}
