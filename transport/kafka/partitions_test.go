package kafka_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/transport/kafka"
)

// A source is given more partitions. What is to be done is said at the next start: a stage without state goes on when it
// is done, and one with state is told why it cannot.
func TestMorePartitions(t *testing.T) {
	_, cluster := opened(t, 2)
	admin := kadm.NewClient(client(t, cluster))
	begin := func(p *framework.Pipeline) error {
		t.Helper()
		transport := open(t, kafka.Config{Brokers: cluster.ListenAddrs()}) // which knows nothing of before
		store, err := microstore.Open(microstore.Config{Dir: t.TempDir()})
		must(t, err)
		defer func() { must(t, store.Close()) }()
		runner, err := framework.New(framework.Config{
			Store: store, Transport: transport, IdleAfter: -1, Logger: slog.New(slog.DiscardHandler),
		}, p)
		must(t, err)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		ran := make(chan error, 1)
		go func() { ran <- runner.Run(ctx) }()
		select {
		case <-runner.Ready():
		case err := <-ran:
			return err
		case <-time.After(patience):
			t.Errorf("it is not ready within %s", patience)
		}
		stop()
		return <-ran
	}
	plain := func() *framework.Pipeline {
		p := framework.NewPipeline("plain")
		framework.To(framework.From[int](p, "events"), "out")
		return p
	}
	stateful := func() *framework.Pipeline {
		p := framework.NewPipeline("stateful")
		framework.To(processors.Distinct(framework.From[int](p, "events"), "once", time.Hour), "out")
		return p
	}
	must(t, begin(plain()))
	must(t, begin(stateful()))
	grow := func(topic string) {
		t.Helper()
		done, err := admin.UpdatePartitions(t.Context(), 4, topic)
		must(t, errors.Join(err, done.Error()))
	}
	grow("events")
	err := begin(plain())
	for _, want := range []string{"kafka-topics.sh --bootstrap-server HOST:9092 --alter --topic plain.events.resubmit --partitions 4", "it has 2 partitions, not 4"} {
		if err == nil || !errors.Is(err, framework.ErrPartitions) || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
	grow("plain.events.resubmit")
	must(t, begin(plain()))
	if err = begin(stateful()); err == nil || strings.Contains(err.Error(), "kafka-topics.sh") || !strings.Contains(err.Error(), "copy their records into new topics") {
		t.Errorf("with state: %v", err)
	}
}
