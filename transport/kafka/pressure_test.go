package kafka_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/transport/kafka"
)

// parcel is an event with something heavy in it.
type parcel struct {
	Number int
	Load   string
}

const sourceTopic = "in"

// slow takes its time over each parcel.
func slow(prefix string) *framework.Pipeline {
	p := framework.NewPipeline(prefix + "slow")
	in := framework.From[parcel](p, prefix+sourceTopic)
	framework.To(processors.Filter(in, "none", func(*framework.Event[parcel]) bool {
		time.Sleep(5 * time.Millisecond) // what it stands for
		return false
	}), prefix+sinkTopic)
	return p
}

// copying passes parcels on.
func copying(prefix string) *framework.Pipeline {
	p := framework.NewPipeline(prefix + "copying")
	framework.To(framework.From[parcel](p, prefix+sourceTopic), prefix+sinkTopic)
	return p
}

// load writes n parcels of some weight into the source of a prefix, from a number on.
func load(t *testing.T, config kafka.Config, prefix string, from, n, weight int) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(config.Brokers...), kgo.ProducerBatchCompression(kgo.Lz4Compression()))
	must(t, err)
	defer client.Close()
	text := strings.Repeat("0123456789abcdef", weight/16)
	for at := from; at < from+n; at += 100 {
		var records []*kgo.Record
		for i := at; i < min(at+100, from+n); i++ {
			records = append(records, &kgo.Record{Topic: prefix + sourceTopic, Key: fmt.Appendf(nil, "%d", i), Value: fmt.Appendf(nil, `{"Number":%d,"Load":"%s"}`, i, text)})
		}
		must(t, client.ProduceSync(t.Context(), records...).FirstErr())
	}
}

// A topic holds much more than a process may have in memory, and a step is slow: what is read ahead is bounded, by what
// it is in memory, and not by what the brokers keep compressed.
func TestSlowStepReadsNoFurther(t *testing.T) {
	slowStep(t, kafka.Config{Brokers: fake(t).ListenAddrs()}, "")
}

func TestSlowStepReadsNoFurtherOnBroker(t *testing.T) { slowStep(t, broker(t), own(t)) }

func slowStep(t *testing.T, config kafka.Config, prefix string) {
	const weight = 64 << 10
	transport := open(t, config)
	must(t, transport.CreateTopic(t.Context(), prefix+sourceTopic, 4))
	parcels, some, most := 10_000, 1000, int64(300<<20)
	if raceDetector { // all is slow, and takes more: 444 MiB; 907 when what is read ahead is not bounded
		parcels, some, most = 2500, 300, 750<<20
	}
	load(t, config, prefix, 0, parcels, weight)
	p := startMember(t, "slow", memberConfig{
		Pipeline: "slow", Address: "kafka://" + strings.Join(config.Brokers, ","), Prefix: prefix, Dir: t.TempDir(),
	})
	p.await("it is at work", func() bool { return p.events > some })
	now, peak, ok := testenv.Memory(p.child.Process.Pid)
	if !ok {
		testenv.NotRun(t, "transport/kafka", "memory of a process", "no /proc")
	}
	t.Logf("of %d MiB, %d MiB in memory, %d at most", parcels*weight>>20, now>>20, peak>>20)
	if peak > most {
		t.Errorf("it has had %d MiB in memory", peak>>20)
	}
	p.interrupt()
}

// The cluster that a pipeline writes to stands still: its outbox fills, and intake stops until it goes on. Nothing is
// lost.
func pausedSink(t *testing.T, sink *services.Broker) {
	const n, weight, outbox = 3000, 16 << 10, 4 << 20
	from, prefix := broker(t), own(t)
	source := open(t, from)
	must(t, source.CreateTopic(t.Context(), prefix+sourceTopic, 2))
	there := open(t, kafka.Config{Brokers: []string{sink.Address}})
	must(t, there.CreateTopic(t.Context(), prefix+sinkTopic, 2))
	p := startMember(t, "copying", memberConfig{
		Pipeline: "copy", Address: "kafka://" + strings.Join(from.Brokers, ","), Sink: "kafka://" + sink.Address + "?delivery_timeout=2s",
		Prefix: prefix, Dir: t.TempDir(), OutboxBytes: outbox,
	})
	load(t, from, prefix, 0, 100, weight)
	out := readTopic(t, there, prefix+sinkTopic)
	got := map[string]int{}
	takeUntil(t, out, got, 100)

	sink.Pause(t)
	load(t, from, prefix, 100, n, weight)
	p.await("it has read some", func() bool { return p.events > 100 })
	for last := -1; last != p.committed(); { // until it has stopped for a while
		last = p.committed()
		time.Sleep(3 * time.Second)
	}
	stopped := p.committed()
	if most := 100 + 2*(outbox/weight) + 1000; stopped > most {
		t.Errorf("it has taken %d parcels in, while the sink stood still: more than %d", stopped, most)
	}
	sink.Unpause(t)
	takeUntil(t, out, got, 100+n)
	p.interrupt()
	twice := 0
	for _, times := range got {
		twice += times - 1
	}
	t.Logf("it stopped at %d of %d parcels; %d came twice", stopped, 100+n, twice)
}

// takeUntil reads parcels until there are n, and counts each by id.
func takeUntil(t *testing.T, messages <-chan *message.Message, got map[string]int, n int) {
	t.Helper()
	deadline := time.After(memberPatience)
	for len(got) < n {
		select {
		case msg := <-messages:
			b, _ := framework.BatchOf(msg)
			for i := range b.Records {
				got[b.Records[i].ID]++
			}
			msg.Ack()
		case <-deadline:
			t.Fatalf("%d parcels of %d", len(got), n)
		}
	}
}
