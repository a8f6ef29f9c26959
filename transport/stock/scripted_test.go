package stock_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/stock"
)

// scripted is a Pub/Sub that hands out what a test gives it, as many messages at once as the test wants, and delivers
// what is refused again at once, as Watermill's do.
type scripted struct {
	refuse error // of Subscribe
	deaf   bool  // does not notice that its subscription is cancelled, and leaves it to a broker to deliver again

	lock       sync.Mutex
	messages   chan *message.Message
	cancelled  <-chan struct{}
	acked      []string
	nacked     map[string]bool
	deliveries int
	closed     chan struct{}
	running    sync.WaitGroup
	ended      sync.Once
}

func newScripted() *scripted {
	return &scripted{messages: make(chan *message.Message), closed: make(chan struct{}), nacked: map[string]bool{}}
}

func (s *scripted) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	if s.refuse != nil {
		return nil, s.refuse
	}
	s.cancelled = ctx.Done()
	return s.messages, nil
}

// give hands out messages one after the other and returns when the last is taken.
func (s *scripted) give(ids ...string) {
	for _, id := range ids {
		s.deliver(id)
	}
}

func (s *scripted) deliver(id string) {
	msg := message.NewMessage(id, []byte(`{"n":1}`))
	msg.Metadata.Set(framework.MetadataKey, "k")
	if s.deaf {
		s.messages <- msg
	} else {
		select {
		case s.messages <- msg:
		case <-s.cancelled:
			return
		case <-s.closed:
			return
		}
	}
	s.lock.Lock()
	s.deliveries++
	s.lock.Unlock()
	s.running.Go(func() {
		select {
		case <-msg.Acked():
			s.lock.Lock()
			s.acked = append(s.acked, id)
			s.lock.Unlock()
		case <-msg.Nacked():
			s.refused(id)
			if !s.deaf {
				s.deliver(id)
			}
		case <-s.closed:
			select {
			case <-msg.Nacked():
				s.refused(id)
			default:
			}
		}
	})
}

func (s *scripted) refused(id string) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.nacked[id] = true
}

func (s *scripted) Close() error {
	close(s.closed)
	s.running.Wait()
	s.end()
	return nil
}

// end ends the subscription.
func (s *scripted) end() { s.ended.Do(func() { close(s.messages) }) }

// reading subscribes to a scripted Pub/Sub through the transport.
func reading(t *testing.T, s *scripted, config stock.Config, change func(*framework.SubscriberConfig)) (message.Subscriber, <-chan *message.Message) {
	t.Helper()
	config.Subscriber = func(string) (message.Subscriber, error) { return s, nil }
	c := framework.SubscriberConfig{Group: "g", BatchEvents: 100, BatchBytes: 1 << 20, InFlight: 2}
	if change != nil {
		change(&c)
	}
	subscriber, err := open(t, config).Subscriber(c)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := subscriber.Subscribe(t.Context(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	return subscriber, messages
}

func batch(t *testing.T, messages <-chan *message.Message) (*framework.Batch, *message.Message) {
	t.Helper()
	select {
	case msg, ok := <-messages:
		if !ok {
			t.Fatal("the channel was closed")
		}
		b, _ := framework.BatchOf(msg)
		return b, msg
	case <-time.After(10 * time.Second):
		t.Fatal("no batch came")
	}
	return nil, nil
}

func ids(from, n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprint("m", from+i))
	}
	return all
}

// While a batch is out the next is collected, up to the bound; acknowledging a batch acknowledges its messages, in
// their order, and no other's.
func TestGathering(t *testing.T) {
	s := newScripted()
	subscriber, messages := reading(t, s, stock.Config{}, func(c *framework.SubscriberConfig) { c.InFlight, c.BatchEvents = 1, 10 })
	s.give("m0")
	first, out := batch(t, messages)
	if len(first.Records) != 1 || first.Records[0].ID != "m0" || first.Seq != 0 || first.Next != 1 || !first.CaughtUp {
		t.Fatalf("the first batch: %+v", first)
	}
	s.give(ids(1, 10)...) // as many as a batch holds
	over := make(chan struct{})
	go func() { s.give("m11"); close(over) }()
	select {
	case <-over:
		t.Error("more is taken in than a batch holds")
	case <-time.After(20 * time.Millisecond):
	}
	if s.lock.Lock(); len(s.acked) > 0 {
		t.Errorf("%v were acknowledged early", s.acked)
	}
	s.lock.Unlock()
	out.Ack()
	second, out := batch(t, messages)
	if len(second.Records) != 10 || second.Records[9].Offset != 10 || second.Records[9].ID != "m10" || second.Next != 11 {
		t.Fatalf("the second batch: %+v", second)
	}
	<-over
	out.Ack()
	third, out := batch(t, messages)
	if len(third.Records) != 1 || third.Records[0].ID != "m11" || third.Seq != 2 || !third.CaughtUp {
		t.Fatalf("the third batch: %+v", third)
	}
	out.Ack()
	if err := subscriber.Close(); err != nil { // takes the acknowledgement before it returns
		t.Fatal(err)
	}
	if len(s.acked) != 12 {
		t.Errorf("acknowledged: %v", s.acked)
	}
}

func TestBoundByBytes(t *testing.T) {
	s := newScripted()
	subscriber, messages := reading(t, s, stock.Config{}, func(c *framework.SubscriberConfig) { c.InFlight, c.BatchBytes = 1, 40 })
	s.give("m0")
	_, out := batch(t, messages)
	s.give("m1", "m2") // about 25 bytes each
	out.Ack()
	for range 2 {
		b, out := batch(t, messages)
		if len(b.Records) != 1 {
			t.Errorf("%d records in a batch of 40 bytes", len(b.Records))
		}
		out.Ack()
	}
	if err := subscriber.Close(); err != nil {
		t.Fatal(err)
	}
}

// After a refusal nothing is delivered any more, and messages are refused only when the subscription ends with it: else
// they would come again and again.
func TestRefusedDoesNotLoop(t *testing.T) {
	s := newScripted()
	subscriber, messages := reading(t, s, stock.Config{SettleTimeout: time.Millisecond}, nil)
	s.give("m0")
	_, first := batch(t, messages)
	s.give("m1", "m2")
	_, second := batch(t, messages)
	s.give("m3")
	first.Ack()
	second.Nack()
	select {
	case <-messages:
		t.Error("a batch after a refused one")
	case <-time.After(20 * time.Millisecond):
	}
	if s.lock.Lock(); s.deliveries != 4 {
		t.Errorf("%d deliveries of 4 messages while the subscriber is open", s.deliveries)
	}
	s.lock.Unlock()
	if err := subscriber.Close(); err != nil {
		t.Fatal(err)
	}
	if len(s.acked) != 1 || s.acked[0] != "m0" {
		t.Errorf("acknowledged %v, want the first, which was committed before the refusal", s.acked)
	}
	if len(s.nacked) != 3 || s.nacked["m0"] {
		t.Errorf("refused %v, want all but the first", s.nacked)
	}
	if s.deliveries > 50 { // a few may come again before the cancellation is seen
		t.Errorf("%d deliveries of 4 messages", s.deliveries)
	}
}

// What a Pub/Sub hands out after its subscription was cancelled is refused: some wait for an answer before they end.
func TestRefusedAfterClose(t *testing.T) {
	s := newScripted()
	s.deaf = true
	subscriber, messages := reading(t, s, stock.Config{SettleTimeout: time.Millisecond},
		func(c *framework.SubscriberConfig) { c.InFlight, c.BatchEvents = 1, 1 })
	s.give("m0")
	batch(t, messages)
	s.give("m1") // and there is no room for more
	s.running.Go(func() { s.give("m2") })
	if err := subscriber.Close(); err != nil {
		t.Fatal(err)
	}
	if len(s.nacked) != 3 {
		t.Errorf("refused %v, want all three", s.nacked)
	}
}

// Closing waits for the batches that are out, so that what is committed meanwhile is acknowledged.
func TestCloseLetsBatchesSettle(t *testing.T) {
	s := newScripted()
	subscriber, messages := reading(t, s, stock.Config{SettleTimeout: time.Minute}, nil)
	s.give("m0")
	_, first := batch(t, messages)
	s.give("m1")
	_, second := batch(t, messages)
	closed := make(chan error)
	go func() { closed <- subscriber.Close() }()
	select {
	case err := <-closed:
		t.Fatalf("closed while batches are out: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	first.Ack()
	second.Ack()
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	if len(s.acked) != 2 {
		t.Errorf("acknowledged: %v", s.acked)
	}
}

// stuck is a subscriber that does not end.
type stuck struct {
	*scripted
	release chan struct{}
}

func (s stuck) Close() error {
	<-s.release
	return s.scripted.Close()
}

func TestCloseIsBounded(t *testing.T) {
	s := stuck{newScripted(), make(chan struct{})}
	transport := open(t, stock.Config{
		Subscriber:   func(string) (message.Subscriber, error) { return s, nil },
		CloseTimeout: time.Millisecond,
	})
	subscriber, err := transport.Subscriber(framework.SubscriberConfig{Group: "g", BatchEvents: 1, BatchBytes: 1, InFlight: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := subscriber.Subscribe(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := subscriber.Close(); err == nil {
			t.Error("closing a subscriber that hangs gave no error")
		}
	}
	close(s.release)
}

// A Pub/Sub that ends by itself ends the run, after what it has delivered.
func TestEndedSubscription(t *testing.T) {
	s := newScripted()
	runner := runnerOver(t, func(string) (message.Subscriber, error) { return s, nil })
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	ran := make(chan error)
	go func() { ran <- runner.Run(ctx) }()
	<-runner.Ready()
	s.give("m0", "m1")
	s.end()
	err := <-ran
	if !errors.Is(err, stock.ErrEnded) {
		t.Fatalf("Run: %v; it was stopped after a minute: %t", err, ctx.Err() != nil)
	}
	if !contains(err, `topic "orders"`) {
		t.Errorf("%v does not name the topic", err)
	}
	if c := runner.Counts("p", "orders"); c.In != 2 {
		t.Errorf("the source has counted %+v, two messages came", c)
	}
}

func TestSubscribeErrors(t *testing.T) {
	gone := errors.New("broker is gone")
	for name, factory := range map[string]func(string) (message.Subscriber, error){
		"subscribe": func(string) (message.Subscriber, error) { s := newScripted(); s.refuse = gone; return s, nil },
		"make":      func(string) (message.Subscriber, error) { return nil, gone },
	} {
		err := runnerOver(t, factory).Run(t.Context())
		if !errors.Is(err, gone) || !contains(err, `topic "orders"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
