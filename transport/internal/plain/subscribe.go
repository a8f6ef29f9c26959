package plain

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
)

// Subscribe delivers the messages of a topic, for each partition one at a time and in order. The context
// of a message ends when it is acknowledged or refused, and with the subscription.
func (p *PubSub) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.closed {
		return nil, fmt.Errorf("subscribe to %q: %w", topic, ErrClosed)
	}
	partitions, err := p.groups.backend.Open(ctx, topic)
	if err != nil {
		return nil, err
	}
	reader := p.groups.reader(p.config.Group)
	slots := make([]chan place, partitions)
	for i := range slots {
		if slots[i], err = p.groups.slot(slotKey{reader, topic, i}); err != nil {
			return nil, fmt.Errorf("subscribe to %q: %w", topic, err)
		}
	}

	ctx, cancel := context.WithCancel(ctx)
	out := make(chan *message.Message)
	var members sync.WaitGroup
	for i, slot := range slots {
		m := &member{
			pubsub: p, reader: reader, topic: topic, partition: i,
			slot: slot, out: out, ctx: ctx,
		}
		members.Go(m.run)
	}
	p.active.Go(func() {
		select {
		case <-p.ctx.Done():
		case <-ctx.Done():
		}
		cancel()
		members.Wait()
		if reader.Group == "" {
			p.groups.forget(reader, topic, partitions)
		}
		close(out)
	})
	return out, nil
}

// member is one subscription's share in one partition.
type member struct {
	pubsub    *PubSub
	reader    Reader
	topic     string
	partition int
	slot      chan place
	out       chan<- *message.Message
	ctx       context.Context
}

func (m *member) run() {
	for {
		var at place
		select {
		case at = <-m.slot:
		case <-m.ctx.Done():
			return
		}
		at, err := m.deliver(at)
		m.slot <- at
		if m.ctx.Err() != nil {
			return
		}
		if err != nil {
			m.pubsub.config.Logger.Error("delivery is tried again",
				"topic", m.topic, "partition", m.partition, "group", m.reader.Group, "error", err)
			m.pause(time.Second)
		}
	}
}

// deliver hands out the message at a place and returns the place after it, or the same one when the
// message was not acknowledged.
func (m *member) deliver(at place) (place, error) {
	if len(at.ahead) == 0 {
		var err error
		at.ahead, err = m.pubsub.groups.backend.Read(m.ctx, m.topic, m.partition, at.position)
		if err != nil {
			return place{position: at.position}, err
		}
	}
	record := &at.ahead[0]
	if !Offer(m.ctx, m.out, record) {
		return at, nil
	}
	next := record.Offset + 1
	if err := m.pubsub.groups.backend.Save(context.WithoutCancel(m.ctx), m.reader, m.topic, m.partition, next); err != nil {
		return at, err
	}
	return place{next, at.ahead[1:]}, nil
}

func (m *member) pause(d time.Duration) { pause(m.ctx, d) }

// redeliverAfter is the pause before a refused message is delivered again.
const redeliverAfter = 5 * time.Millisecond

// Offer hands out one record as a message and waits for its acknowledgement; after a refusal it waits a moment. False:
// the message is to be handed out again, if ctx has not ended.
func Offer(ctx context.Context, out chan<- *message.Message, record *framework.Record) bool {
	msg := framework.ToMessage(record)
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	msg.SetContext(inner)
	select {
	case out <- msg:
	case <-ctx.Done():
		return false
	}
	select {
	case <-msg.Acked():
		return true
	case <-msg.Nacked():
		cancel()
		pause(ctx, redeliverAfter)
		return false
	case <-ctx.Done():
		select {
		case <-msg.Acked(): // in time
			return true
		default:
			return false
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
