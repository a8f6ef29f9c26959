package delivery

import (
	"context"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Subscription is the channel of one topic and what fills it.
type Subscription struct {
	sub      *Subscriber
	topic    string
	out      chan *message.Message
	messages context.Context
	ctx      context.Context // ends with the subscription

	mu    sync.Mutex // no loop starts after the end
	ended bool
	loops sync.WaitGroup
}

// Messages is what Subscribe returns.
func (s *Subscription) Messages() <-chan *message.Message { return s.out }

// Start begins to deliver what a reader reads; after the end of the subscription the reader is closed at once.
func (s *Subscription) Start(r Reader) *Partition {
	l := &loop{
		sub: s.sub, reader: r, topic: s.topic, out: s.out, messages: s.messages, ctx: s.ctx,
		stop: make(chan struct{}), exited: make(chan struct{}),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		r.Close()
		close(l.exited)
	} else {
		s.loops.Go(l.run)
	}
	return &Partition{loop: l}
}

func (s *Subscription) end() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.loops.Wait()
	close(s.out)
}

// Partition is a partition that is being delivered.
type Partition struct {
	loop *loop
	once sync.Once
}

// Stop ends delivery of the partition: when it returns, nothing more is delivered.
func (p *Partition) Stop() {
	p.once.Do(func() { close(p.loop.stop) })
	<-p.loop.exited
}

// Drain stops, and waits until all that was delivered is acknowledged or refused, or until ctx ends, whose error it
// returns.
func (p *Partition) Drain(ctx context.Context) error {
	p.Stop()
	for i := range p.loop.delivered {
		msg := p.loop.delivered[i].msg
		select {
		case <-msg.Acked():
		case <-msg.Nacked():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
