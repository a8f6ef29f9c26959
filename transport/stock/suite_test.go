package stock_test

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/stock"
	"github.com/millrace/millrace/transport/transporttest"
)

// testPubSub runs what every Pub/Sub has to pass: the conformance suite, and pipelines that are stopped and that fail
// in the middle.
func testPubSub(t *testing.T, config func(testing.TB) stock.Config, features transporttest.Features) {
	features.Unpositioned, features.NoTombstones, features.Patience = true, true, 30*time.Second // brokers take their time on a busy machine
	warm(t, config(t))
	t.Run("Transport", func(t *testing.T) {
		transporttest.Run(t, func(t testing.TB) transporttest.Fixture {
			c := config(t)
			c.Group = "transporttest"
			c.SettleTimeout = 200 * time.Millisecond // some tests leave batches out for ever
			return transporttest.Fixture{Transport: open(t, c), Prefix: unique()}
		}, features)
	})
	t.Run("Pipeline", func(t *testing.T) {
		n := 2000
		if features.Slow {
			n = 300
		}
		testPipeline(t, config(t), n)
	})
}

// warm makes a publisher and closes it, for what a Pub/Sub starts once in a process and never ends.
func warm(t *testing.T, c stock.Config) {
	publisher, err := open(t, c).Publisher(framework.PublisherConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := publisher.Close(); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, c stock.Config) *stock.Transport {
	t.Helper()
	transport, err := stock.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return transport
}

// unique begins names of topics that no other test and no other run has.
func unique() string { return "t" + watermill.NewShortUUID() + "_" }

// must passes on what a set-up gives.
func must(t testing.TB) func(stock.Config, error) stock.Config {
	return func(c stock.Config, err error) stock.Config {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
}
