package framework_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/transport/embedded"
)

// unpositioned is a pipeline without state and one with, over a source without positions. Every seventh event fails.
func unpositioned(remember int) *framework.Pipeline {
	p := framework.NewPipeline("p")
	in := framework.From[thing](p, "in", framework.Source[thing]{Remember: remember})
	good := processors.Map(in, "good", func(e *framework.Event[thing]) (thing, error) {
		if e.Data.N%7 == 3 {
			return thing{}, errors.New("three of seven")
		}
		return e.Data, nil
	})
	framework.To(good, "plain")
	framework.To(processors.Fold(good, "sum", 0, func(sum int, e *framework.Event[thing]) (int, error) { return sum + e.Data.N, nil }), "sums")
	return p
}

// What is delivered again, in a batch, in another batch, after a restart, does nothing but count as a duplicate; an
// event that became a fault too.
func TestDeliveredAgainWithoutPositions(t *testing.T) {
	const n = 100
	for _, lanes := range []int{1, 4} {
		for _, batch := range []int{0, 1, 7} {
			t.Run(fmt.Sprintf("lanes=%d,batch=%d", lanes, batch), func(t *testing.T) {
				d := frameworktest.New(t, frameworktest.Config{Lanes: lanes, BatchEvents: batch, Unpositioned: true}, unpositioned(0))
				all := things(n, 10, atNoon)
				frameworktest.Send(d, "in", append(all, all[:50]...)...) // in a batch, or the next ones
				frameworktest.Send(d, "in", all...)
				d.Restart()
				frameworktest.Send(d, "in", all...)
				once := func(topic string, want int) {
					seen := map[string]bool{}
					for _, r := range d.Outputs(topic) {
						if seen[r.ID] {
							t.Errorf("topic %s has id %s twice", topic, r.ID)
						}
						seen[r.ID] = true
					}
					if len(seen) != want {
						t.Errorf("topic %s has %d records, want %d", topic, len(seen), want)
					}
				}
				once("plain", n-14)
				once("sums", n-14)
				once("p.faults", 14)
				sums := map[string]int{}
				for _, e := range frameworktest.Outputs[int](d, "sums") {
					sums[e.Key] = e.Data
				}
				want := map[string]int{}
				for i := range n {
					if i%7 != 3 {
						want[fmt.Sprint("k", i%10)] += i
					}
				}
				for key := range want {
					if sums[key] != want[key] {
						t.Errorf("the sum of %s is %d, want %d", key, sums[key], want[key])
					}
				}
				if c := d.Counts("in"); c.In != n || c.Out != n-14 || c.Duplicates != 250 {
					t.Errorf("counts of the source: %+v", c)
				}
			})
		}
	}
}

// An event that is tried again does not see itself, and is processed once it has succeeded or failed for good.
func TestTriedAgainWithoutPositions(t *testing.T) {
	attempts := map[string]int{}
	p := framework.NewPipeline("p")
	in := framework.From[thing](p, "in")
	framework.To(processors.Map(in, "flaky", func(e *framework.Event[thing]) (thing, error) {
		if attempts[e.ID()]++; attempts[e.ID()] < 3 || e.Data.N == 5 {
			return thing{}, framework.Transient(errors.New("not yet"))
		}
		return e.Data, nil
	}), "out")
	d := frameworktest.New(t, frameworktest.Config{Unpositioned: true}, p)
	all := things(10, 10, atNoon)
	frameworktest.Send(d, "in", all...)
	frameworktest.Send(d, "in", all...)
	if out, faults := len(d.Outputs("out")), d.Faults(); out != 9 || len(faults) != 1 || faults[0].Attempts != 5 {
		t.Errorf("%d outputs, faults %+v", out, faults)
	}
	for id, n := range attempts {
		if want := map[bool]int{true: 5, false: 3}[id == "e5"]; n != want {
			t.Errorf("event %s was tried %d times, want %d", id, n, want)
		}
	}
}

// A round that does not fit a transaction is taken back, its ids too, and each of its events is processed after all.
func TestRoundsTakenBackWithoutPositions(t *testing.T) {
	p := framework.NewPipeline("p")
	framework.To(framework.From[string](p, "in"), "out")
	d := frameworktest.New(t, frameworktest.Config{Unpositioned: true, MemoryBytes: 32 << 20}, p)
	var all []*framework.Event[string]
	for i := range 400 {
		all = append(all, framework.NewEvent(fmt.Sprint(i), "k", noon, strings.Repeat("x", 20_000)))
	}
	frameworktest.Send(d, "in", append(all, all...)...)
	if out, faults := len(d.Outputs("out")), len(d.Faults()); out != 400 || faults != 0 {
		t.Errorf("%d outputs, %d faults", out, faults)
	}
	if c := d.Counts("in"); c.In != 400 || c.Duplicates != 400 {
		t.Errorf("counts of the source: %+v", c)
	}
}

// The bound counts events: the newest are known, what was before them is processed again.
func TestRemember(t *testing.T) {
	d := frameworktest.New(t, frameworktest.Config{Unpositioned: true, BatchEvents: 10}, unpositioned(50))
	all := things(200, 10, atNoon)
	frameworktest.Send(d, "in", all...)
	d.Restart()
	frameworktest.Send(d, "in", all[150:]...)
	if c := d.Counts("in"); c.In != 200 || c.Duplicates != 50 {
		t.Errorf("the last 50 again: %+v", c)
	}
	frameworktest.Send(d, "in", all[:10]...)
	if c := d.Counts("in"); c.In != 210 || c.Duplicates != 50 {
		t.Errorf("the first 10 again: %+v", c)
	}
	if _, err := framework.New(framework.Config{}, unpositioned(-1)); err == nil || !strings.Contains(err.Error(), `source "in": Remember is -1`) {
		t.Errorf("a negative bound: %v", err)
	}
}

// Ids are unique for each CloudEvents source, as their specification has it.
func TestSameIDOfTwoSourcesWithoutPositions(t *testing.T) {
	d := frameworktest.New(t, frameworktest.Config{Unpositioned: true}, unpositioned(0))
	for range 2 {
		for _, source := range []string{"shop", "store", ""} {
			d.Send("in", framework.Record{ID: "1", Source: source, Key: "k", Time: noon, Value: []byte(`{"n":1}`)})
		}
	}
	if c := d.Counts("in"); c.In != 3 || c.Duplicates != 3 {
		t.Errorf("counts of the source: %+v", c)
	}
}

// Without an id there is nothing to know a record by: it is a fault that says what to do, with an id that follows from
// its bytes; two such records are not taken for one.
func TestNoIDWithoutPositions(t *testing.T) {
	record := func(text string) framework.Record {
		return framework.Record{Key: "k", Time: noon, Value: []byte(text)}
	}
	d := frameworktest.New(t, frameworktest.Config{Unpositioned: true}, unpositioned(0))
	d.Send("in", record(`{"n":1}`), record(`{"n":1}`), record(`{"n":2}`))
	d.Restart()
	d.Send("in", record(`{"n":1}`))
	faults := d.Outputs("p.faults")
	if len(faults) != 4 || faults[0].ID != faults[1].ID || faults[0].ID != faults[3].ID || faults[0].ID == faults[2].ID {
		t.Errorf("faults: %+v", faults)
	}
	for _, f := range d.Faults() {
		if !strings.Contains(f.Error, "no id") || !strings.Contains(f.Error, "Source.ID") || f.Class != framework.ClassPermanent {
			t.Errorf("fault: %+v", f)
		}
	}

	p := framework.NewPipeline("p")
	in := framework.From[thing](p, "in", framework.Source[thing]{ID: func(v thing) string { return fmt.Sprint(v.N) }})
	framework.To(in, "out")
	d = frameworktest.New(t, frameworktest.Config{Unpositioned: true}, p)
	d.Send("in", record(`{"n":1}`), record(`{"n":1}`), record(`{"n":2}`))
	d.Restart()
	d.Send("in", record(`{"n":1}`))
	if out := len(d.Outputs("out")); out != 2 {
		t.Errorf("%d outputs, want 2", out)
	}
}

// An event that another event type or source is passed over is not remembered, nor one that cannot be decoded twice a
// fault.
func TestPassedOverWithoutPositions(t *testing.T) {
	p := framework.NewPipeline("p")
	framework.To(framework.From[thing](p, "in", framework.Source[thing]{Types: []string{"right"}}), "out")
	d := frameworktest.New(t, frameworktest.Config{Unpositioned: true}, p)
	send := func(kind, text string) {
		d.Send("in", framework.Record{ID: "1", Type: kind, Key: "k", Time: noon, Value: []byte(text)})
	}
	send("wrong", `{"n":1}`)
	send("right", `{"n":2}`)
	send("right", `{"n":2}`)
	if c := d.Counts("in"); c.In != 1 || c.Duplicates != 1 || len(d.Outputs("out")) != 1 {
		t.Errorf("%+v, %d outputs", c, len(d.Outputs("out")))
	}
	for range 2 {
		d.Send("in", framework.Record{ID: "bad", Type: "right", Key: "k", Time: noon, Value: []byte("{")})
	}
	if c := d.Counts("in"); c.Faults != 1 || c.Duplicates != 2 || len(d.Faults()) != 1 {
		t.Errorf("%+v, %d faults", c, len(d.Faults()))
	}
}

// single is a Pub/Sub as the Watermill contract has it, given to the engine without transport/stock around it.
type single struct{ *framework.Feed }

func (single) Subscriber(framework.SubscriberConfig) (message.Subscriber, error) {
	return &singles{}, nil
}

type singles struct{ out chan *message.Message }

func (s *singles) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	s.out = make(chan *message.Message, 1)
	s.out <- message.NewMessage("1", []byte(`{"n":1}`))
	return s.out, nil
}

func (s *singles) Close() error { close(s.out); return nil }

func TestSingleMessagesAreRefused(t *testing.T) {
	store := openStore(t, t.TempDir())
	feed := framework.NewFeed(map[string][][]framework.Record{"in": {{}}})
	runner, err := framework.New(framework.Config{
		Store: store, Transport: topicsIn(t, store), Routes: map[string]framework.Transport{"in": single{feed}},
	}, unpositioned(0))
	if err != nil {
		t.Fatal(err)
	}
	err = runner.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), `topic "in"`) || !strings.Contains(err.Error(), "transport/stock") {
		t.Errorf("single messages: %v", err)
	}
}

// noPositions is a transport for internal topics that cannot be one.
type noPositions struct{ *embedded.Transport }

func (t noPositions) Topic(ctx context.Context, name string) (framework.TopicInfo, error) {
	info, err := t.Transport.Topic(ctx, name)
	info.Positioned = false
	return info, err
}

func TestInternalTopicsNeedPositions(t *testing.T) {
	store := openStore(t, t.TempDir())
	topics := topicsIn(t, store)
	p := framework.NewPipeline("p")
	in := framework.From[thing](p, "in")
	framework.To(processors.ReKey(in, "again", func(e *framework.Event[thing]) string { return "k" }), "out")
	runner, err := framework.New(framework.Config{
		Store: store, Transport: topics, Internal: noPositions{topics},
		Routes: map[string]framework.Transport{"in": framework.NewFeed(map[string][][]framework.Record{"in": {{}}})},
	}, p)
	if err != nil {
		t.Fatal(err)
	}
	err = runner.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), `internal topic "p.again"`) || !strings.Contains(err.Error(), "no positions") {
		t.Errorf("internal topics without positions: %v", err)
	}
}
