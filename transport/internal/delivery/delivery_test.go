package delivery

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.uber.org/goleak"

	"github.com/millrace/millrace/framework"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a reader that gives numbered batches, and fails after some.
type script struct {
	next, last int64
	acked      chan int64
	closed     chan struct{}
}

var errScript = errors.New("the disk is gone")

func (s *script) Next(context.Context) (*framework.Batch, error) {
	if s.next == s.last {
		return Failure("t", 0, s.next, "", errScript), errScript
	}
	s.next++
	return &framework.Batch{Next: s.next}, nil
}

func (s *script) Wake() <-chan struct{} { return nil }
func (s *script) Acked(position int64)  { s.acked <- position }
func (s *script) Close()                { close(s.closed) }
func newScript(last int64) *script {
	return &script{0, last, make(chan int64, 100), make(chan struct{})}
}
func open(s *script) Opener {
	return func(context.Context, string) ([]Reader, error) { return []Reader{s}, nil }
}

func receive(t *testing.T, messages <-chan *message.Message) (*message.Message, *framework.Batch) {
	t.Helper()
	select {
	case msg := <-messages:
		b, _ := framework.BatchOf(msg)
		return msg, b
	case <-time.After(10 * time.Second):
		t.Fatal("no batch within 10 s")
		return nil, nil
	}
}

// The position moves on only over batches without a gap before them.
func TestAcknowledgementsOutOfOrder(t *testing.T) {
	s := newScript(100)
	subscriber := NewSubscriber(framework.SubscriberConfig{InFlight: 3}, open(s))
	messages, err := subscriber.Subscribe(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	first, _ := receive(t, messages)
	second, _ := receive(t, messages)
	third, _ := receive(t, messages)
	third.Ack()
	second.Ack()
	select {
	case p := <-s.acked:
		t.Fatalf("position %d is acknowledged, batch 1 is not", p)
	case <-messages:
		t.Fatal("a batch was delivered over InFlight")
	case <-time.After(10 * time.Millisecond):
	}
	first.Ack()
	if p := <-s.acked; p != 3 {
		t.Errorf("position %d is acknowledged, expected 3", p)
	}
	if _, b := receive(t, messages); b.Seq != 3 {
		t.Errorf("batch %d follows", b.Seq)
	}
	if err := subscriber.Close(); err != nil {
		t.Fatal(err)
	}
	<-s.closed
}

func TestFailureIsDeliveredLast(t *testing.T) {
	s := newScript(1)
	subscriber := NewSubscriber(framework.SubscriberConfig{InFlight: 3}, open(s))
	defer subscriber.Close()
	messages, err := subscriber.Subscribe(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	receive(t, messages)
	_, b := receive(t, messages)
	if b.Next != 1 || b.End || len(b.Records) != 1 || framework.ClassOf(b.Records[0].Err) != framework.ClassFatal ||
		!errors.Is(b.Records[0].Err, errScript) || !errors.Is(subscriber.Err(), errScript) {
		t.Errorf("%+v, Err %v", b, subscriber.Err())
	}
	select {
	case <-messages:
		t.Error("something follows a failure")
	case <-time.After(10 * time.Millisecond):
	}
}

func TestOpenerFails(t *testing.T) {
	subscriber := NewSubscriber(framework.SubscriberConfig{}, func(context.Context, string) ([]Reader, error) { return nil, errScript })
	if _, err := subscriber.Subscribe(t.Context(), "t"); !errors.Is(err, errScript) {
		t.Error(err)
	}
	if err := subscriber.Close(); err != nil {
		t.Error(err)
	}
	if _, err := subscriber.Subscribe(t.Context(), "t"); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// Drain withdraws what nobody has taken, and ends when what was taken is settled.
func TestDrain(t *testing.T) {
	subscriber := NewSubscriber(framework.SubscriberConfig{InFlight: 3}, nil)
	defer subscriber.Close()
	subscription, err := subscriber.Begin(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	s := newScript(100)
	partition := subscription.Start(s)
	first, _ := receive(t, subscription.Messages())
	second, _ := receive(t, subscription.Messages())
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := partition.Drain(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("nothing is settled: %v", err)
	}
	<-s.closed
	first.Ack()
	second.Nack()
	if err := partition.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	again := newScript(100)
	partition = subscription.Start(again)
	if msg, b := receive(t, subscription.Messages()); b.Seq != 0 || b.Next != 1 {
		t.Errorf("after another start: batch %d, next %d", b.Seq, b.Next)
	} else {
		msg.Ack()
	}
	if err := partition.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	<-again.closed
}
