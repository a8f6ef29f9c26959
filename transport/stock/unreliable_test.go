package stock_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/transport/stock"
	"github.com/millrace/millrace/transport/transporttest"
)

// unreliable is a Pub/Sub that does everything that at-least-once allows, and nothing more: it hands messages out in any
// order, again although they were acknowledged, and again when they are refused; its publisher takes a part and then
// has an error, or takes a message twice. It loses nothing.
type unreliable struct {
	halves bool // Publish may take a part and have an error

	lock   sync.Mutex
	random *rand.Rand
	queues map[string]*queue // by group and topic
	topics map[string][]*message.Message
}

// queue is what a group has still to be sent of a topic.
type queue struct {
	waiting []*message.Message
	added   chan struct{} // has room for one
}

// out is how many messages a subscription has out at most.
const out = 5

func newUnreliable(t testing.TB) *unreliable {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return &unreliable{random: rand.New(rand.NewPCG(seed, 0)), queues: map[string]*queue{}, topics: map[string][]*message.Message{}}
}

func (u *unreliable) chance(percent int) bool { return u.random.IntN(100) < percent }

var errHalf = errors.New("the broker went away in the middle")

// Publish keeps messages, perhaps not all, perhaps some of them twice.
func (u *unreliable) Publish(topic string, messages ...*message.Message) error {
	u.lock.Lock()
	defer u.lock.Unlock()
	var err error
	if u.halves && u.chance(20) {
		messages, err = messages[:u.random.IntN(len(messages))], errHalf
	}
	for _, msg := range messages {
		u.keep(topic, msg)
		if u.chance(10) {
			u.keep(topic, msg)
		}
	}
	return err
}

func (u *unreliable) keep(topic string, msg *message.Message) {
	u.topics[topic] = append(u.topics[topic], msg.Copy())
	for name, q := range u.queues {
		if strings.HasSuffix(name, "/"+topic) {
			q.add(msg)
		}
	}
}

func (q *queue) add(msg *message.Message) {
	q.waiting = append(q.waiting, msg.Copy())
	select {
	case q.added <- struct{}{}:
	default:
	}
}

func (u *unreliable) Close() error { return nil }

// consumer is a subscriber of a group.
type consumer struct {
	*unreliable
	group   string
	closing chan struct{}
	once    sync.Once
	running sync.WaitGroup
}

func (u *unreliable) subscriber(group string) (message.Subscriber, error) {
	return &consumer{unreliable: u, group: group, closing: make(chan struct{})}, nil
}

func (c *consumer) Close() error {
	c.once.Do(func() { close(c.closing) })
	c.running.Wait()
	return nil
}

func (c *consumer) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	c.lock.Lock()
	defer c.lock.Unlock()
	name := c.group + "/" + topic
	q := c.queues[name]
	if q == nil {
		q = &queue{added: make(chan struct{}, 1)}
		c.queues[name] = q
		for _, msg := range c.topics[topic] {
			q.add(msg)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	messages := make(chan *message.Message)
	c.running.Go(func() {
		defer cancel()
		select {
		case <-c.closing:
		case <-ctx.Done():
		}
	})
	c.running.Go(func() {
		defer close(messages)
		var answers sync.WaitGroup
		defer answers.Wait()
		slots := make(chan struct{}, out)
		for {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			msg := c.take(ctx, q)
			if msg == nil {
				return
			}
			select {
			case messages <- msg:
			case <-ctx.Done():
				c.back(q, msg)
				return
			}
			answers.Go(func() { c.answer(ctx, q, msg); <-slots })
		}
	})
	return messages, nil
}

// take waits for a message and takes any of those that wait.
func (c *consumer) take(ctx context.Context, q *queue) *message.Message {
	for {
		c.lock.Lock()
		if n := len(q.waiting); n > 0 {
			at := c.random.IntN(n)
			msg := q.waiting[at]
			q.waiting[at] = q.waiting[n-1]
			q.waiting = q.waiting[:n-1]
			c.lock.Unlock()
			return msg
		}
		c.lock.Unlock()
		select {
		case <-q.added:
		case <-ctx.Done():
			return nil
		}
	}
}

// answer puts back what is refused or never answered, and some of what is acknowledged.
func (c *consumer) answer(ctx context.Context, q *queue, msg *message.Message) {
	select {
	case <-msg.Acked():
		c.lock.Lock()
		again := c.chance(20)
		c.lock.Unlock()
		if !again {
			return
		}
	case <-msg.Nacked():
	case <-ctx.Done():
	}
	c.back(q, msg)
}

func (c *consumer) back(q *queue, msg *message.Message) {
	c.lock.Lock()
	defer c.lock.Unlock()
	q.add(msg)
}

// Whatever a Pub/Sub of a user's own does within at-least-once, nothing is lost, and nothing takes effect twice.
func TestUnreliablePubSub(t *testing.T) {
	config := func(halves bool) func(t testing.TB) stock.Config {
		return func(t testing.TB) stock.Config {
			own := newUnreliable(t)
			own.halves = halves
			return stock.Config{Subscriber: own.subscriber, Publisher: stock.SharedPublisher(own)}
		}
	}
	testPubSub(t, config(false), transporttest.Features{Unordered: true, AtOnce: out})
	t.Run("Errors of the publisher", func(t *testing.T) { testPipeline(t, config(true)(t), 1000) })
}
