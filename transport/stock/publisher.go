package stock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
)

// ErrClosed is returned by a publisher after its Close.
var ErrClosed = errors.New("publisher is closed")

type publisher struct {
	inner  message.Publisher
	config Config
	reach  func(context.Context) error

	lock    sync.Mutex
	closed  bool
	running sync.WaitGroup
}

// Publish sends records as messages, in order. The context is looked at between calls of the Pub/Sub's publisher, which
// takes none.
func (p *publisher) Publish(ctx context.Context, topic string, records []framework.Record) error {
	if !p.enter() {
		return fmt.Errorf("stock: publish to %q: %w", topic, ErrClosed)
	}
	defer p.running.Done()
	if err := p.reach(ctx); err != nil {
		return fmt.Errorf("stock: publish to %q: %w", topic, p.config.at(err))
	}
	for part := range slices.Chunk(records, p.config.PublishMessages) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("stock: publish to %q: %w", topic, err)
		}
		messages := make([]*message.Message, len(part))
		for i := range part {
			messages[i] = framework.ToMessage(&part[i])
			messages[i].SetContext(ctx)
		}
		if err := p.inner.Publish(topic, messages...); err != nil {
			return fmt.Errorf("stock: publish to %q: %w", topic, p.config.at(p.config.Classify(err)))
		}
	}
	return nil
}

func (p *publisher) enter() bool {
	p.lock.Lock()
	defer p.lock.Unlock()
	if !p.closed {
		p.running.Add(1)
	}
	return !p.closed
}

// Close closes the Pub/Sub's publisher, which also ends a Publish that hangs, and waits for that.
func (p *publisher) Close() error {
	p.lock.Lock()
	closed := p.closed
	p.closed = true
	p.lock.Unlock()
	if closed {
		return nil
	}
	err := p.inner.Close()
	ended := make(chan struct{})
	go func() { p.running.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(p.config.CloseTimeout):
		err = errors.Join(err, fmt.Errorf("a call of Publish did not end within %v", p.config.CloseTimeout))
	}
	if err != nil {
		return fmt.Errorf("stock: close the publisher: %w", err)
	}
	return nil
}
