package outbox_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
	"github.com/millrace/millrace/transport/kafka"
)

// kafkaPublisher is the publisher of transport/kafka, with the topic "events" in four partitions. It gives up what a broker
// refuses soon, so that it is the relay that has to go on.
func kafkaPublisher(t *testing.T, broker string) framework.Publisher {
	t.Helper()
	transport, err := kafka.New(t.Context(), kafka.Config{Brokers: []string{broker}, DeliveryTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := transport.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := transport.CreateTopic(t.Context(), "events", 4); err != nil {
		t.Fatal(err)
	}
	publisher, err := transport.Publisher(framework.PublisherConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return publisher
}

// consumer reads "events" from the beginning, as any consumer of Kafka does.
type consumer struct {
	client *kgo.Client
	seen   map[string]bool
	sink   *sink
}

func consume(t *testing.T, broker string) *consumer {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.ConsumeTopics("events"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &consumer{client, map[string]bool{}, newSink()}
}

// waitForDistinct reads until so many different events have come.
func (c *consumer) waitForDistinct(t *testing.T, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for len(c.seen) < n {
		fetches := c.client.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d of %d events have come in time", len(c.seen), n)
		}
		for _, r := range fetches.Records() {
			id := ""
			for _, header := range r.Headers {
				if header.Key == "ce_id" {
					id = string(header.Value)
				}
			}
			c.seen[id] = true
			c.sink.all, c.sink.topics = append(c.sink.all, framework.Record{ID: id, Key: string(r.Key)}), append(c.sink.topics, "events")
		}
	}
}

// Fault 9, with Kafka: the broker answers nothing for a while, in the middle of sending. What is in memory is bounded
// meanwhile, and then all comes in order.
func TestKafkaIsAway(t *testing.T) {
	d := database{sqltest.Postgres(t)}
	broker := services.OwnKafka(t, services.BrokerConfig{})
	table, o := d.table(t, outbox.Config{}), newOracle()
	events := consume(t, broker.Address)
	config := quick()
	config.WindowRows, config.BatchRows = 300, 50
	relay, stop := start(t, d, table, kafkaPublisher(t, broker.Address), config)
	put := func(from, to int) {
		for n := from; n < to; n++ {
			var records []framework.Record
			for k := range 50 {
				records = append(records, event(fmt.Sprint("key", k), n))
			}
			d.write(t, table, "events", records...)
			o.commit(records...)
		}
	}
	put(0, 20)
	events.waitForDistinct(t, 200) // it is sending
	broker.Pause(t)
	put(20, 60)
	most := 0
	until := time.Now().Add(3 * time.Second) // as long as the broker is away, many times DeliveryTimeout
	eventually(t, "the window is full", func() bool {
		most = max(most, relay.Stats().Rows)
		return most == config.WindowRows && time.Now().After(until)
	})
	if n := d.count(t); most > config.WindowRows || n < 40*50 {
		t.Errorf("%d rows in memory, WindowRows is %d; %d in the table", most, config.WindowRows, n)
	}
	broker.Unpause(t)
	put(60, 65)
	events.waitForDistinct(t, o.size())
	eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
	stop()
	t.Logf("%d events, %d duplicates", o.size(), o.check(t, events.sink))
	if parked, err := table.Parked(t.Context(), d.DB, 10); err != nil || len(parked) > 0 {
		t.Errorf("parked: %+v, %v", parked, err)
	}
}

// Fault 9, second half, with Kafka's client: one partition has no leader for a while. The keys of the others go on, and all
// comes in order.
func TestKafkaPartitionFails(t *testing.T) {
	d := database{sqltest.SQLite(t)}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	broker := cluster.ListenAddrs()[0]
	table, o := d.table(t, outbox.Config{}), newOracle()
	publisher := kafkaPublisher(t, broker)
	events := consume(t, broker)
	fault := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "events", Partitions: []int32{2}, Err: kerr.NotLeaderForPartition, Count: -1})
	others := 0
	for n := range 20 {
		var records []framework.Record
		for k := range 12 {
			r := event(fmt.Sprint("key", k), n)
			records = append(records, r)
			if framework.Partition(r.Key, 4) != 2 {
				others++
			}
		}
		d.write(t, table, "events", records...)
		o.commit(records...)
	}
	if others == o.size() || others == 0 {
		t.Fatal("no key is in the partition that fails, or all are")
	}
	relay, stop := start(t, d, table, publisher, quick())
	events.waitForDistinct(t, others)
	healthy := "key0"
	for k := 0; framework.Partition(healthy, 4) == 2; k++ {
		healthy = fmt.Sprint("key", k)
	}
	n := 1000
	eventually(t, "keys of the partition wait", func() bool {
		n++
		d.write(t, table, "events", event(healthy, n))
		o.commit(event(healthy, n))
		others++
		return relay.Stats().Waiting+relay.Stats().Parked > 0
	})
	events.waitForDistinct(t, others)
	for id := range events.seen {
		var n int
		var key string
		if _, err := fmt.Sscanf(id, "key%d", &n); err != nil {
			t.Fatal(err)
		}
		if key = fmt.Sprint("key", n); framework.Partition(key, 4) == 2 {
			t.Errorf("%s came through a partition that fails", id)
		}
	}
	fault.Remove()
	events.waitForDistinct(t, o.size())
	eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
	stop()
	t.Logf("%d events, %d duplicates", o.size(), o.check(t, events.sink))
}

// An event that is larger than Kafka takes is parked at once, with what there is to be done about it; others go on.
func TestKafkaTakesNoLargeEvent(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cluster.Close)
		broker := cluster.ListenAddrs()[0]
		table := d.table(t, outbox.Config{MaxRowBytes: -1})
		publisher, events := kafkaPublisher(t, broker), consume(t, broker)
		large := event("large", 1)
		large.Value = make([]byte, 3<<20)
		d.write(t, table, "events", large, event("large", 2), event("other", 1))
		_, stop := start(t, d, table, publisher, quick())
		events.waitForDistinct(t, 1)
		var parked []outbox.Parked
		eventually(t, "the event is parked", func() bool {
			if parked, err = table.Parked(t.Context(), d.DB, 10); err != nil {
				t.Fatal(err)
			}
			return len(parked) > 0
		})
		if p := parked[0]; p.EventID != "large/1" || p.RetryIn >= 0 || !strings.Contains(p.Error, "max.message.bytes") {
			t.Errorf("%+v", p)
		}
		if err := table.DeadLetter(t.Context(), d.DB, parked[0].Row, parked[0].EventID); err != nil {
			t.Fatal(err)
		}
		events.waitForDistinct(t, 2)
		stop()
	})
}
