package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/kafka"
)

// ledger stands for the stores of all members: who has which partition, and how far each has come.
type ledger struct {
	t        testing.TB
	together [][]string

	mu        sync.Mutex
	changed   chan struct{}
	owners    map[[2]int]*worker
	positions map[string]int64    // "topic/partition"
	values    map[string][]string // by topic and key
	count     int
	calls     []string       // of Assignments, in order
	alive     map[string]int // batches that are not settled, by topic/partition
}

func newLedger(t testing.TB, together ...[]string) *ledger {
	return &ledger{
		t: t, together: together, changed: make(chan struct{}),
		owners: map[[2]int]*worker{}, positions: map[string]int64{}, values: map[string][]string{}, alive: map[string]int{},
	}
}

func (l *ledger) change() { // the lock is held
	close(l.changed)
	l.changed = make(chan struct{})
}

// await waits until something is so.
func (l *ledger) await(what string, is func() bool) {
	l.t.Helper()
	deadline := time.After(patience)
	for {
		l.mu.Lock()
		ok, changed := is(), l.changed
		l.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			l.mu.Lock()
			defer l.mu.Unlock()
			l.t.Fatalf("not within %s: %s; calls: %v", patience, what, l.calls)
		}
	}
}

func (l *ledger) spread() string { // the lock is held
	counts := map[*worker]int{}
	for _, w := range l.owners {
		counts[w]++
	}
	least, greatest := 1<<30, 0
	for _, n := range counts {
		least, greatest = min(least, n), max(greatest, n)
	}
	return fmt.Sprintf("%d of %d, %d to %d", len(counts), len(l.owners), least, greatest)
}

// inFlight is how many batches of a partition a member has at most.
const inFlight = 2

// worker is a member: it acknowledges what it gets, unless it holds.
type worker struct {
	*ledger
	name       string
	subscriber message.Subscriber
	done       sync.WaitGroup
	slow       bool                             // Revoke takes all of its time
	fault      error                            // that Assign returns
	onAssign   func(partition int)              // is called at its end
	waits      func(context.Context, int) error // at its beginning
	starts     func() (int64, bool)             // in place of the ledger's positions
	seen       map[[2]int]int                   // numbers of batches by topic and partition
	late       map[string]int                   // batches that came when Revoke had begun, by topic/partition
	hold       chan *message.Message            // takes messages in place of acknowledging, if not nil
	committed  map[string]int64                 // what Assign was told last
	last       string                           // the member that the store had before
	keep       func(string) error
	errs       chan error
}

func (l *ledger) join(name string, transport *kafka.Transport, change ...func(*worker)) *worker {
	l.t.Helper()
	w := &worker{ledger: l, name: name, seen: map[[2]int]int{}, late: map[string]int{}, errs: make(chan error, 100)}
	for _, f := range change {
		f(w)
	}
	var err error
	w.subscriber, err = transport.Subscriber(framework.SubscriberConfig{
		Group: "g-" + l.together[0][0], BatchEvents: 20, BatchBytes: 1 << 20, InFlight: inFlight, Together: l.together, Assignments: w,
		Predecessor: w.last, KeepMember: w.keep,
		Start: func(topic string, partition int) (int64, bool) {
			if w.starts != nil {
				return w.starts()
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			position, ok := l.positions[fmt.Sprint(topic, "/", partition)]
			return position, ok
		},
	})
	must(l.t, err)
	l.t.Cleanup(w.leave)
	for _, topics := range l.together {
		for _, topic := range topics {
			messages, err := w.subscriber.Subscribe(context.WithoutCancel(l.t.Context()), topic)
			must(l.t, err)
			w.done.Go(func() {
				for msg := range messages {
					w.take(msg)
				}
			})
		}
	}
	return w
}

func (w *worker) leave() {
	if err := w.subscriber.Close(); err != nil {
		w.t.Error(err)
	}
	w.done.Wait()
}

func (w *worker) groupOf(topic string) int {
	for i, topics := range w.together {
		for _, t := range topics {
			if t == topic {
				return i
			}
		}
	}
	return -1
}

func (w *worker) take(msg *message.Message) {
	b, _ := framework.BatchOf(msg)
	w.mu.Lock()
	defer w.mu.Unlock()
	where := fmt.Sprint(b.Topic, "/", b.Partition)
	if len(b.Records) == 1 && b.Records[0].Err != nil {
		w.errs <- b.Records[0].Err
		w.change()
		msg.Nack()
		return
	}
	switch owner := w.owners[[2]int{w.groupOf(b.Topic), b.Partition}]; {
	case owner == nil && w.late[where] < inFlight:
		// It was delivered, and then the partition was taken back: nobody has it before this batch is settled.
		w.late[where]++
		msg.Nack()
		return
	case owner != w:
		w.t.Errorf("%s gets batch %d of %s, which it does not own", w.name, b.Seq, where)
	}
	at := [2]int{0, b.Partition}
	for i, t := range w.together[w.groupOf(b.Topic)] {
		if t == b.Topic {
			at[0] = w.groupOf(b.Topic)*1000 + i
		}
	}
	if int(b.Seq) != w.seen[at] {
		w.t.Errorf("%s: batch %d of %s, expected %d", w.name, b.Seq, where, w.seen[at])
	}
	w.seen[at]++
	if w.hold != nil {
		w.alive[where]++
		w.hold <- msg
		w.change()
		return
	}
	for _, r := range b.Records {
		if r.Offset != w.positions[where] {
			w.t.Errorf("%s: offset %d of %s, the ledger is at %d", w.name, r.Offset, where, w.positions[where])
		}
		w.positions[where] = r.Offset + 1
		w.values[b.Topic+"/"+r.Key] = append(w.values[b.Topic+"/"+r.Key], string(r.Value))
		w.count++
	}
	w.positions[where] = b.Next
	w.subscriber.(framework.Marker).Mark(b.Topic, b.Partition, b.Next)
	w.change()
	msg.Ack()
}

// letGo ends holding: what is held is acknowledged or refused, and what comes from now on acknowledged at once.
func (w *worker) letGo(acknowledge bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	held := w.hold
	w.hold = nil
	for len(held) > 0 {
		msg := <-held
		b, _ := framework.BatchOf(msg)
		where := fmt.Sprint(b.Topic, "/", b.Partition)
		w.alive[where]--
		if acknowledge {
			w.positions[where] = b.Next
			msg.Ack()
		} else {
			msg.Nack()
		}
	}
}

func (w *worker) Assign(ctx context.Context, group, partition int, committed map[string]int64) error {
	if w.waits != nil {
		if err := w.waits(ctx, partition); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, fmt.Sprintf("%s assign %d/%d", w.name, group, partition))
	if w.fault != nil {
		return w.fault
	}
	if owner := w.owners[[2]int{group, partition}]; owner != nil {
		w.t.Errorf("%s is assigned %d/%d, which %s owns", w.name, group, partition, owner.name)
	}
	w.owners[[2]int{group, partition}] = w
	for i, topic := range w.together[group] {
		if n := w.alive[fmt.Sprint(topic, "/", partition)]; n > 0 {
			w.t.Errorf("%s is assigned %s/%d while %d batches of it are alive", w.name, topic, partition, n)
		}
		w.seen[[2]int{group*1000 + i, partition}] = 0
		delete(w.late, fmt.Sprint(topic, "/", partition))
	}
	if w.committed == nil {
		w.committed = map[string]int64{}
	}
	for topic, position := range committed {
		w.committed[fmt.Sprint(topic, "/", partition)] = position
	}
	if w.onAssign != nil {
		w.onAssign(partition)
	}
	w.change()
	return nil
}

func (w *worker) end(how string, group, partition int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, fmt.Sprintf("%s %s %d/%d", w.name, how, group, partition))
	if w.owners[[2]int{group, partition}] != w {
		w.t.Errorf("%s is to %s %d/%d, which it does not own", w.name, how, group, partition)
	}
	delete(w.owners, [2]int{group, partition})
	w.change()
}

func (w *worker) Revoke(ctx context.Context, group, partition int) error {
	w.mu.Lock()
	slow := w.slow
	w.mu.Unlock()
	if slow {
		<-ctx.Done()
		w.end("revoke", group, partition)
		return errors.New("too late")
	}
	w.end("revoke", group, partition)
	return nil
}

func (w *worker) Lose(group, partition int) { w.end("lose", group, partition) }

func (l *ledger) called(what string) bool { // the lock is held
	for _, c := range l.calls {
		if strings.HasPrefix(c, what) {
			return true
		}
	}
	return false
}
