package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/transport/kafka"
)

var frameworkPublisher framework.PublisherConfig

// passing reads a topic, leaves out orders without an amount, and writes another topic.
func passing(name, from, to string) *framework.Pipeline {
	p := framework.NewPipeline(name)
	in := framework.From[order](p, from)
	framework.To(processors.Filter(in, "some", func(e *framework.Event[order]) bool { return e.Data.Amount > 0 }), to)
	return p
}

// runFor runs a pipeline until it ends by itself, which is what is waited for.
func runFor(t *testing.T, transport *kafka.Transport, p *framework.Pipeline) error {
	t.Helper()
	ended := begun(t, transport, p)
	ctx, cancel := context.WithTimeout(t.Context(), memberPatience)
	defer cancel()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		t.Fatalf("it has not ended within %s", memberPatience)
		return nil
	}
}

// begun runs a pipeline until the end of the test, and tells how it ended.
func begun(t *testing.T, transport *kafka.Transport, p *framework.Pipeline) <-chan error {
	t.Helper()
	store, err := microstore.Open(microstore.Config{Dir: t.TempDir()})
	must(t, err)
	runner, err := framework.New(framework.Config{
		Store: store, Transport: transport, Internal: transport, IdleAfter: -1, Logger: slog.New(slog.DiscardHandler),
	}, p)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended, gone := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(gone)
		ended <- runner.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-gone
		must(t, store.Close())
	})
	return ended
}

// rights runs pipelines as bob, who lacks one right at a time: each run ends with an error that names what is missing.
func rights(t *testing.T, broker *services.Broker) {
	admin := adminOf(t, broker.Address)
	all, err := kafka.Parse("kafka://" + broker.Address)
	must(t, err)
	owner := open(t, all)
	allow := func(b *kadm.ACLBuilder, operations ...kadm.ACLOperation) {
		t.Helper()
		results, err := admin.CreateACLs(t.Context(), b.Allow("User:bob").ResourcePatternType(kadm.ACLPatternLiteral).Operations(operations...))
		must(t, err)
		for _, r := range results {
			must(t, r.Err)
		}
	}
	for i, test := range []struct {
		lacks string
		is    error
		want  []string
	}{
		{"Describe on the source", kerr.TopicAuthorizationFailed, []string{"in-%d", "Describe"}},
		{"Read on the source", kerr.TopicAuthorizationFailed, []string{"in-%d", "give the user the operation Read on the topic"}},
		{"Read on the group", kerr.GroupAuthorizationFailed, []string{`"rights-%d"`, "give the user the operation Read on the group"}},
		{"Write on the sink", kerr.TopicAuthorizationFailed, []string{"out-%d", "give the user the operation Write"}},
		{"Create for the sink", nil, []string{"out-%d", "Create"}},
		{"Read on the source while it runs", kerr.TopicAuthorizationFailed, []string{"in-%d"}},
	} {
		t.Run(test.lacks, func(t *testing.T) {
			name, in, out := fmt.Sprintf("rights-%d", i), fmt.Sprintf("in-%d", i), fmt.Sprintf("out-%d", i)
			p := passing(name, in, out)
			topics := []string{in, p.DeadLetters(), out}
			must(t, owner.CreateTopic(t.Context(), in, 1))
			must(t, owner.CreateTopic(t.Context(), p.DeadLetters(), 1))
			resubmit := name + "." + in + ".resubmit"
			must(t, owner.CreateTopic(t.Context(), resubmit, 1))
			allow(kadm.NewACLs().Topics(resubmit), kadm.OpRead, kadm.OpWrite)
			if test.lacks != "Create for the sink" {
				must(t, owner.CreateTopic(t.Context(), out, 1))
			}
			publisher, err := owner.Publisher(frameworkPublisher)
			must(t, err)
			must(t, publisher.Publish(t.Context(), in, []framework.Record{{ID: "1", Key: "k", Value: []byte(`{"Amount":1}`)}}))
			switch test.lacks {
			case "Describe on the source": // which Read implies
			case "Read on the source":
				allow(kadm.NewACLs().Topics(in), kadm.OpDescribe)
			default:
				allow(kadm.NewACLs().Topics(in), kadm.OpRead)
			}
			if test.lacks != "Read on the group" {
				allow(kadm.NewACLs().Groups(name), kadm.OpRead)
			}
			allow(kadm.NewACLs().Topics(topics[1:]...), kadm.OpDescribe)
			if test.lacks != "Write on the sink" {
				allow(kadm.NewACLs().Topics(topics[1:]...), kadm.OpWrite)
			}
			config, err := kafka.Parse("kafka://bob:secret@" + broker.Listeners["LOGIN"] + "?sasl=plain")
			must(t, err)
			bob := open(t, config)
			if test.lacks == "Read on the source while it runs" {
				ended := begun(t, bob, p)
				take(t, readTopic(t, owner, out), 1) // it runs
				revokeAll(t, admin, in)
				err = <-ended
			} else {
				err = runFor(t, bob, p)
			}
			if err == nil || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%v: expected %v", err, test.is)
			}
			for _, want := range test.want {
				if strings.Contains(want, "%d") {
					want = fmt.Sprintf(want, i)
				}
				if err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("%v: expected %q", err, want)
				}
			}
			t.Log(err)
		})
	}
}

// revokeAll takes all rights on a topic from everybody.
func revokeAll(t *testing.T, admin *kadm.Client, topic string) {
	t.Helper()
	results, err := admin.DeleteACLs(t.Context(), kadm.NewACLs().Topics(topic).ResourcePatternType(kadm.ACLPatternLiteral).
		Operations().Allow().AllowHosts())
	must(t, err)
	for _, r := range results {
		must(t, r.Err)
	}
}
