package kafka_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/transport/kafka"
)

// A stream joined with a compacted topic: whoever's account was deleted has none, also in a process that makes the state anew.
// The accounts are written on, to another compacted topic, and deleted there too. A deletion that fails is a dead letter, and
// a deletion when it is resubmitted. On a fake broker and on a real one.
func TestTombstonesOverKafka(t *testing.T) {
	tombstonesOver(t, kafka.Config{Brokers: fake(t).ListenAddrs()}, "")
}

func TestTombstonesOnBroker(t *testing.T) { tombstonesOver(t, broker(t), own(t)) }

type account struct{ Name string }

func tombstonesOver(t *testing.T, config kafka.Config, prefix string) {
	admin := adminOf(t, config.Brokers...)
	compact := "compact"
	for name, settings := range map[string]map[string]*string{
		"payments": nil, "checked": nil, "tombstones.faults": nil, "accounts": {"cleanup.policy": &compact}, "names": {"cleanup.policy": &compact},
	} {
		_, err := admin.CreateTopic(t.Context(), map[bool]int32{true: 2, false: 1}[name == "payments" || name == "accounts"], 1, settings, prefix+name)
		must(t, err)
	}
	var broken atomic.Bool
	pipeline := func() *framework.Pipeline {
		p := framework.NewPipeline(prefix + "tombstones")
		payments := framework.From[int](p, prefix+"payments")
		accounts := framework.From(p, prefix+"accounts", framework.Source[account]{Tombstones: framework.TombstonesPass})
		names := processors.MapData(accounts, "name", func(a account) string { return a.Name })
		framework.To(processors.Filter(names, "whole", func(e *framework.Event[string]) bool {
			if e.Deleted && broken.Load() {
				panic("broken")
			}
			return true
		}), prefix+"names")
		framework.To(processors.JoinLatest(payments, accounts, "owner", func(a account) (string, bool) { return a.Name, true },
			func(e *framework.Event[int], name string, found bool) (string, error) {
				return fmt.Sprint(e.Data, " of ", e.Key, ": ", name, " ", found), nil
			}), prefix+"checked")
		return p
	}
	run := func() (runner *framework.Runner, stop func()) {
		transport := open(t, config)
		store, err := microstore.Open(microstore.Config{Dir: t.TempDir()})
		must(t, err)
		runner, err = framework.New(framework.Config{Store: store, Transport: transport}, pipeline())
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- runner.Run(ctx) }()
		return runner, func() {
			cancel()
			must(t, <-ended)
			must(t, store.Close())
		}
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(config.Brokers...), kgo.ConsumeTopics(prefix+"names", prefix+"checked", prefix+"tombstones.faults"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	must(t, err)
	defer client.Close()
	send := func(topic, key string, value []byte) {
		t.Helper()
		must(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: prefix + topic, Key: []byte(key), Value: value}).FirstErr())
	}
	received := map[string][]*kgo.Record{}
	receive := func(topic string, n int) []*kgo.Record {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for len(received[prefix+topic]) < n {
			fetches := client.PollFetches(ctx)
			must(t, errors.Join(ctx.Err(), fetches.Err()))
			fetches.EachRecord(func(r *kgo.Record) { received[r.Topic] = append(received[r.Topic], r) })
		}
		all := received[prefix+topic]
		delete(received, prefix+topic)
		return all
	}
	await := func(topic string, want ...string) {
		t.Helper()
		var got []string
		for _, r := range receive(topic, len(want)) {
			value := string(r.Value)
			if r.Value == nil {
				value = "deleted"
			}
			got = append(got, string(r.Key)+" "+value)
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Fatalf("%s: %q, want %q", topic, got, want)
		}
	}

	runner, stop := run()
	send("accounts", "a", []byte(`{"Name":"Ann"}`))
	send("accounts", "b", []byte(`{"Name":"Bob"}`))
	await("names", `a "Ann"`, `b "Bob"`)
	send("payments", "a", []byte("1"))
	send("payments", "b", []byte("2"))
	await("checked", `a "1 of a: Ann true"`, `b "2 of b: Bob true"`)

	broken.Store(true)
	send("accounts", "a", nil)
	send("accounts", "c", []byte(`{"Name":"Cid"}`))
	await("names", `c "Cid"`)
	var fault framework.Fault
	must(t, json.Unmarshal(receive("tombstones.faults", 1)[0].Value, &fault))
	if !fault.Event.Deleted || fault.Event.Key != "a" || fault.Step != "whole" {
		t.Fatalf("fault %+v", fault)
	}
	send("payments", "a", []byte("2"))
	await("checked", `a "2 of a: Ann true"`) // nothing stays of what failed
	broken.Store(false)
	must(t, runner.Resubmit(t.Context(), fault))
	await("names", `a deleted`)
	send("accounts", "b", nil)
	await("names", `b deleted`)
	for key := range 3 {
		send("payments", string("abc"[key]), []byte("3"))
	}
	checked := []string{`a "3 of a:  false"`, `b "3 of b:  false"`, `c "3 of c: Cid true"`}
	await("checked", checked...)
	stop()

	_, stop = run()
	for key := range 3 {
		send("payments", string("abc"[key]), []byte("3"))
	}
	await("checked", checked...)
	stop()
}
