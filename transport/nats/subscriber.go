package nats

import (
	"context"
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	natsgo "github.com/nats-io/nats.go"
)

// storeFailed is the server's code for a consumer whose files it could not make. It passes: the files of one of the same
// name, that has just ended, are still being removed.
const storeFailed natsgo.ErrorCode = 10104

const (
	attempts  = 5
	firstWait = 100 * time.Millisecond
)

// patient subscribes again after an error that passes. It takes another subscriber for that: Watermill's waits for what did
// not begin, when it is closed.
type patient struct {
	message.Subscriber
	open func() (message.Subscriber, error)
}

func newPatient(open func() (message.Subscriber, error)) (message.Subscriber, error) {
	s, err := open()
	if err != nil {
		return nil, err
	}
	return &patient{Subscriber: s, open: open}, nil
}

// Subscribe is called once: each subscription has a subscriber of its own.
func (p *patient) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	for attempt, wait := 1, firstWait; ; attempt, wait = attempt+1, 2*wait {
		messages, err := p.Subscriber.Subscribe(ctx, topic)
		var answer *natsgo.APIError
		if err == nil || attempt == attempts || !errors.As(err, &answer) || answer.ErrorCode != storeFailed {
			return messages, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
		again, failed := p.open()
		if failed != nil {
			return nil, errors.Join(err, failed)
		}
		_ = p.Subscriber.Close() // it has nothing, and says that it still waits for it
		p.Subscriber = again
	}
}
