package kafka_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/transport/kafka"
)

func TestBadRecords(t *testing.T) { badRecords(t, kafka.Config{Brokers: fake(t).ListenAddrs()}, "") }

func TestBadRecordsOnBroker(t *testing.T) { badRecords(t, broker(t), own(t)) }

// Records that nobody can make sense of, or whose outputs are too large for a sink, become faults, and those around them
// are processed.
func badRecords(t *testing.T, config kafka.Config, prefix string) {
	transport := open(t, config)
	client, err := kgo.NewClient(kgo.SeedBrokers(config.Brokers...), kgo.ProducerBatchMaxBytes(16<<20), kgo.MaxBufferedBytes(64<<20))
	must(t, err)
	t.Cleanup(client.Close)
	admin := kadm.NewClient(client)
	large := "16777216"
	roomy := func(topic string) {
		_, err := admin.CreateTopic(t.Context(), 1, 1, map[string]*string{"max.message.bytes": &large}, topic)
		must(t, err)
	}
	write := func(topic string, records ...*kgo.Record) {
		t.Helper()
		for _, r := range records {
			r.Topic = topic
		}
		must(t, client.ProduceSync(t.Context(), records...).FirstErr())
	}
	good := func() *kgo.Record { return &kgo.Record{Key: []byte("k"), Value: []byte(`{"Amount":1}`)} }
	headers := func(n, size int) *kgo.Record {
		r := good()
		for i := range n {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: fmt.Sprint("h", i), Value: make([]byte, size)})
		}
		return r
	}
	huge := func() *kgo.Record { // 10 MiB
		return &kgo.Record{Key: []byte("huge"), Value: fmt.Appendf(nil, `{"Amount":2,"Customer":%q}`, strings.Repeat("x", 10<<20))}
	}

	t.Run("faults", func(t *testing.T) {
		p := passing(prefix+"bad", prefix+"bad-in", prefix+"bad-out")
		roomy(prefix + "bad-in")
		write(prefix+"bad-in", good(), &kgo.Record{Key: []byte("k"), Value: []byte("\xff{not json")}, &kgo.Record{Key: []byte("k")},
			headers(2000, 1), headers(10, 100<<10), &kgo.Record{Key: []byte("k"), Value: []byte(`{"Amount":1}`),
				Headers: []kgo.RecordHeader{{Key: "ce_time", Value: []byte("yesterday")}}},
			&kgo.Record{Key: []byte("k"), Value: bytes.Repeat([]byte{1}, 3<<20)}, good()) // more than the dead letters' topic takes
		must(t, transport.CreateTopic(t.Context(), prefix+"bad-out", 1))
		must(t, transport.CreateTopic(t.Context(), p.DeadLetters(), 1))
		begun(t, transport, p)
		take(t, readTopic(t, transport, prefix+"bad-out"), 2)
		got, _ := take(t, readTopic(t, transport, p.DeadLetters()), 6)
		places := map[int64]bool{}
		for i := range got {
			var f framework.Fault
			must(t, json.Unmarshal(got[i].Value, &f))
			places[f.Offset] = true
			if cut := f.Event.Cut; (f.Offset == 6) != (cut == 3<<20) {
				t.Errorf("%s: %d bytes are cut", f.Place, cut)
			}
			t.Logf("%s: %.200s", f.Place, f.Error)
			if f.Event.Key != "k" {
				t.Errorf("%s has the key %q", f.Place, f.Event.Key)
			}
		}
		if want := map[int64]bool{1: true, 2: true, 3: true, 4: true, 5: true, 6: true}; !maps.Equal(places, want) {
			t.Errorf("faults of %v, want %v", places, want)
		}
	})
	t.Run("huge, and left out", func(t *testing.T) {
		p := framework.NewPipeline(prefix + "small")
		in := framework.From[order](p, prefix+"small-in")
		framework.To(processors.Filter(in, "small", func(e *framework.Event[order]) bool { return e.Data.Amount == 1 }), prefix+"small-out")
		roomy(prefix + "small-in")
		write(prefix+"small-in", huge(), good())
		must(t, transport.CreateTopic(t.Context(), prefix+"small-out", 1))
		begun(t, transport, p)
		take(t, readTopic(t, transport, prefix+"small-out"), 1)
	})
	t.Run("huge, and too large for the sink", func(t *testing.T) {
		roomy(prefix + "huge-in")
		write(prefix+"huge-in", good(), huge(), good())
		p := passing(prefix+"huge", prefix+"huge-in", prefix+"huge-out")
		must(t, transport.CreateTopic(t.Context(), prefix+"huge-out", 1))
		must(t, transport.CreateTopic(t.Context(), p.DeadLetters(), 1))
		begun(t, transport, p)
		take(t, readTopic(t, transport, prefix+"huge-out"), 2)
		f := deadLetter(t, transport, p)
		for _, want := range []string{prefix + "huge-out", "1000012 bytes", "max.message.bytes", "Config.BatchBytes"} {
			if f.Step != prefix+"huge-out" || f.Offset != 1 || f.Event.Cut == 0 || !strings.Contains(f.Error, want) {
				t.Errorf("%+v: expected %q", f, want)
			}
		}
	})
	t.Run("no key, and a compacted sink", func(t *testing.T) {
		compact := "compact"
		_, err := admin.CreateTopic(t.Context(), 1, 1, map[string]*string{"cleanup.policy": &compact}, prefix+"table")
		must(t, err)
		must(t, transport.CreateTopic(t.Context(), prefix+"keyless-in", 1))
		bare := good()
		bare.Key = nil
		write(prefix+"keyless-in", good(), bare, good())
		p := passing(prefix+"keyless", prefix+"keyless-in", prefix+"table")
		must(t, transport.CreateTopic(t.Context(), p.DeadLetters(), 1))
		begun(t, transport, p)
		take(t, readTopic(t, transport, prefix+"table"), 2)
		f := deadLetter(t, transport, p)
		if f.Step != prefix+"table" || f.Offset != 1 || !strings.Contains(f.Error, "without a key") {
			t.Errorf("%+v", f)
		}
	})
	t.Run("huge, and no client's to write", func(t *testing.T) {
		must(t, transport.CreateTopic(t.Context(), prefix+"usual", 1))
		raised := open(t, kafka.Config{Brokers: config.Brokers, BatchBytes: 12 << 20, WriteBytes: 32 << 20})
		publisher, err := raised.Publisher(frameworkPublisher)
		must(t, err)
		err = publisher.Publish(t.Context(), prefix+"usual", []framework.Record{{ID: "big", Value: huge().Value}})
		if framework.ClassOf(err) != framework.ClassPermanent || !strings.Contains(err.Error(), `"big"`) {
			t.Errorf("%v", err)
		}
	})
}

func TestTopicsThatDoNotFit(t *testing.T) {
	topicsThatDoNotFit(t, kafka.Config{Brokers: fake(t).ListenAddrs()}, "")
}

func TestTopicsThatDoNotFitOnBroker(t *testing.T) { topicsThatDoNotFit(t, broker(t), own(t)) }

// A source that is not there, and topics of one stage with other numbers of partitions, end the start.
func topicsThatDoNotFit(t *testing.T, config kafka.Config, prefix string) {
	transport := open(t, config)
	if err := runFor(t, transport, passing(prefix+"p", prefix+"nothing", prefix+"out")); !errors.Is(err, framework.ErrNoTopic) ||
		!strings.Contains(err.Error(), prefix+"nothing") {
		t.Errorf("a source that is not there: %v", err)
	}
	must(t, transport.CreateTopic(t.Context(), prefix+"three", 3))
	must(t, transport.CreateTopic(t.Context(), prefix+"four", 4))
	p := framework.NewPipeline(prefix + "joined")
	three, four := framework.From[order](p, prefix+"three"), framework.From[order](p, prefix+"four")
	framework.To(processors.Merge("both", three, four), prefix+"out")
	err := runFor(t, transport, p)
	for _, want := range []string{prefix + "three", prefix + "four", "3", "4"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: expected %q", err, want)
		}
	}
}

// deadLetter reads the first one of a pipeline.
func deadLetter(t *testing.T, transport *kafka.Transport, p *framework.Pipeline) (f framework.Fault) {
	t.Helper()
	got, _ := take(t, readTopic(t, transport, p.DeadLetters()), 1)
	must(t, json.Unmarshal(got[0].Value, &f))
	return f
}
