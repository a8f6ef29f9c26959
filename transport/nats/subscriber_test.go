package nats

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/ThreeDotsLabs/watermill/message"
	natsgo "github.com/nats-io/nats.go"
)

// scripted is a subscriber that fails in a certain way.
type scripted struct {
	err    error
	closed bool
}

func (s *scripted) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	if s.err != nil {
		return nil, s.err
	}
	return make(chan *message.Message), nil
}

func (s *scripted) Close() error {
	s.closed = true
	return nil
}

// An error of the server that passes is waited for, with another subscriber each time, and one that does not is told.
func TestSubscribeAgain(t *testing.T) {
	passing := fmt.Errorf("cannot subscribe: %w", &natsgo.APIError{ErrorCode: storeFailed, Description: "error creating store for consumer"})
	lasting := fmt.Errorf("cannot subscribe: %w", &natsgo.APIError{ErrorCode: natsgo.JSErrCodeStreamNotFound})
	for _, c := range []struct {
		name   string
		errs   []error // of the subscribers, in order
		opened int
		err    error
	}{
		{"at once", []error{nil}, 1, nil},
		{"the third time", []error{passing, passing, nil}, 3, nil},
		{"never", []error{passing, passing, passing, passing, passing, nil}, attempts, passing},
		{"not of the server's making", []error{lasting, nil}, 1, lasting},
		{"lasting after all", []error{passing, lasting, nil}, 2, lasting},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var all []*scripted
				s, err := newPatient(func() (message.Subscriber, error) {
					all = append(all, &scripted{err: c.errs[len(all)]})
					return all[len(all)-1], nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Subscribe(t.Context(), "topic"); !errors.Is(err, c.err) || len(all) != c.opened {
					t.Errorf("%d subscribers, %v; want %d and %v", len(all), err, c.opened, c.err)
				}
				for i, one := range all[:len(all)-1] {
					if !one.closed {
						t.Errorf("subscriber %d is left open", i)
					}
				}
				if err := s.Close(); err != nil || !all[len(all)-1].closed {
					t.Errorf("the last subscriber is not closed: %v", err)
				}
			})
		})
	}
}
