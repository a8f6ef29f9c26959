package kafka_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/transport/kafka"
)

// deposit is an event of an account: its number counts from 0, and is its amount.
type deposit struct {
	Account string
	Number  int
}

// balance is what an account comes to with a deposit: wrong where one is left out, comes twice or out of order.
type balance struct {
	Account       string
	Number        int // of the deposit
	Count, Sum    int // of all up to it, in the first stage
	Counted, Held int // the same in the second
}

// accounts keeps the balance of each account in two stages, with a topic of the cluster between them.
func accounts(prefix string) *framework.Pipeline {
	p := framework.NewPipeline(prefix + "accounts")
	deposits := framework.From(p, prefix+"deposits", framework.Source[deposit]{Key: func(d deposit) string { return d.Account }})
	first := processors.Fold(deposits, "first", balance{}, func(b balance, e *framework.Event[deposit]) (balance, error) {
		return balance{Account: e.Data.Account, Number: e.Data.Number, Count: b.Count + 1, Sum: b.Sum + e.Data.Number}, nil
	})
	again := processors.ReKey(first, "again", func(e *framework.Event[balance]) string { return e.Data.Account })
	second := processors.Fold(again, "second", balance{}, func(b balance, e *framework.Event[balance]) (balance, error) {
		next := e.Data
		next.Counted, next.Held = b.Counted+1, b.Held+e.Data.Number
		return next, nil
	})
	framework.To(second, prefix+sinkTopic)
	return p
}

// logged is accounts with a changelog, so that the topic between the stages is trimmed.
func logged(prefix string) *framework.Pipeline {
	p := accounts(prefix)
	p.Changelog(framework.Changelog{CopyBytes: 32 << 10})
	return p
}

// accountsOf is how many accounts there are.
const accountsOf = 40

// bank feeds deposits, and checks the balances that come of them.
type bank struct {
	t         *testing.T
	prefix    string
	publisher framework.Publisher
	messages  <-chan *message.Message

	fed                    int            // deposits of each account
	next                   map[string]int // of each account, the number of the next balance
	ids                    map[string]string
	distinct, duplicates   int
	unordered, wrong, torn int
}

func newBank(t *testing.T, config kafka.Config, prefix string) *bank {
	t.Helper()
	transport := open(t, config)
	for _, topic := range []string{"deposits", sinkTopic} {
		must(t, transport.CreateTopic(t.Context(), prefix+topic, 4))
	}
	b := &bank{t: t, prefix: prefix, next: map[string]int{}, ids: map[string]string{}}
	var err error
	b.publisher, err = transport.Publisher(framework.PublisherConfig{})
	must(t, err)
	b.messages = readTopic(t, transport, prefix+sinkTopic)
	return b
}

// readTopic reads a topic from its beginning.
func readTopic(t *testing.T, transport *kafka.Transport, topic string) <-chan *message.Message {
	t.Helper()
	subscriber, err := transport.Subscriber(framework.SubscriberConfig{BatchEvents: 1000, BatchBytes: 1 << 20})
	must(t, err)
	t.Cleanup(func() { _ = subscriber.Close() })
	messages, err := subscriber.Subscribe(t.Context(), topic)
	must(t, err)
	return messages
}

// feed publishes the next deposits of all accounts, in turn.
func (b *bank) feed(each int) {
	b.t.Helper()
	var records []framework.Record
	for range each {
		for a := range accountsOf {
			name := fmt.Sprintf("account-%d", a)
			value, err := json.Marshal(deposit{name, b.fed})
			must(b.t, err)
			records = append(records, framework.Record{
				ID: fmt.Sprintf("%s/%d", name, b.fed), Key: name, Value: value,
				Time: time.Date(2026, 7, 1, 0, 0, b.fed, 0, time.UTC),
			})
		}
		b.fed++
	}
	must(b.t, b.publisher.Publish(b.t.Context(), b.prefix+"deposits", records))
}

// await reads until each account has so many balances.
func (b *bank) await(each int) {
	b.t.Helper()
	deadline := time.After(memberPatience)
	for b.distinct < each*accountsOf {
		select {
		case msg, ok := <-b.messages:
			if !ok {
				b.t.Fatal("the channel is closed")
			}
			batch, _ := framework.BatchOf(msg)
			for i := range batch.Records {
				b.take(&batch.Records[i])
			}
			msg.Ack()
		case <-deadline:
			b.t.Fatalf("%d balances of %d, %d of them twice", b.distinct, each*accountsOf, b.duplicates)
		}
	}
}

func (b *bank) take(r *framework.Record) {
	must(b.t, r.Err)
	var got balance
	if err := json.Unmarshal(r.Value, &got); err != nil {
		b.torn++
		return
	}
	name := fmt.Sprintf("%s/%d", got.Account, got.Number)
	if id, ok := b.ids[name]; ok {
		if b.duplicates++; id != r.ID {
			b.t.Errorf("%s came with the ids %s and %s", name, id, r.ID)
		}
		return
	}
	b.ids[name] = r.ID
	b.distinct++
	if got.Number != b.next[got.Account] {
		b.unordered++
	}
	b.next[got.Account] = got.Number + 1
	n := got.Number
	if want := (balance{got.Account, n, n + 1, n * (n + 1) / 2, n + 1, n * (n + 1) / 2}); got != want {
		if b.wrong++; b.wrong < 5 {
			b.t.Errorf("balance %+v, want %+v", got, want)
		}
	}
}

// check checks that every balance has come, right and in order.
func (b *bank) check() {
	b.t.Helper()
	b.await(b.fed)
	lost := b.fed*accountsOf - b.distinct
	if lost != 0 || b.unordered != 0 || b.wrong != 0 || b.torn != 0 {
		b.t.Errorf("%d lost, %d out of order, %d wrong, %d cannot be read", lost, b.unordered, b.wrong, b.torn)
	}
	b.t.Logf("%d balances: none lost, none out of order; %d came twice, with the same ids", b.distinct, b.duplicates)
}
