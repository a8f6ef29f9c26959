package engine

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/millrace/millrace/benchmarks/internal/cpu"
	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/memory"
)

// keep is the handler that both sides run: half of the events pass, unchanged.
func keep(payload []byte) bool { return payload[len(payload)-1]&1 == 0 }

func payloads(n int) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = fmt.Appendf(nil, "%0300d", i)
	}
	return all
}

// BenchmarkMillrace runs a stateless pipeline over the memory transport, 4 partitions.
func BenchmarkMillrace(b *testing.B) {
	store, err := microstore.Open(microstore.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	topics, err := memory.New(memory.Config{AutoCreate: true, RetainEvents: b.N + 1, RetainBytes: 1 << 40})
	if err != nil {
		b.Fatal(err)
	}
	p := framework.NewPipeline("bench")
	in := framework.From(p, "in", framework.Source[[]byte]{Codec: framework.Bytes()})
	kept := framework.AddStep(in, framework.Step{Name: "kept", Kind: "filter"}, func(_ *framework.Step, next framework.Next[[]byte]) framework.Next[[]byte] {
		return func(s *framework.Scope, e *framework.Event[[]byte]) error {
			if !keep(e.Data) {
				return nil
			}
			return next(s, e)
		}
	})
	framework.To(kept, "out", framework.Sink[[]byte]{Codec: framework.Bytes()})
	some := payloads(1000)
	now := time.Now()
	records := make([]framework.Record, b.N)
	for i := range records {
		records[i] = framework.Record{ID: fmt.Sprint(i), Key: fmt.Sprint(i % 1000), Time: now, Value: some[i%1000]}
	}
	if err := topics.Publish("in", records...); err != nil {
		b.Fatal(err)
	}
	if err := topics.End("in"); err != nil {
		b.Fatal(err)
	}
	r, err := framework.New(framework.Config{Store: store, Transport: topics}, p)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	stop := cpu.Start(b)
	if err := r.Run(context.Background()); err != nil {
		b.Fatal(err)
	}
	stop()
	b.StopTimer()
	if got := r.Counts("bench", "out").In; b.N > 1000 && got != int64(b.N/2) {
		b.Errorf("%d of %d events kept", got, b.N)
	}
}

// BenchmarkRouter runs the same handler on a stock Watermill router over GoChannel.
func BenchmarkRouter(b *testing.B) {
	logger := watermill.NopLogger{}
	ps := gochannel.NewGoChannel(gochannel.Config{OutputChannelBuffer: 1000}, logger)
	router, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	var left atomic.Int64
	left.Store(int64(b.N))
	router.AddHandler("kept", "in", ps, "out", ps, func(msg *message.Message) ([]*message.Message, error) {
		if left.Add(-1) == 0 {
			close(done)
		}
		if !keep(msg.Payload) {
			return nil, nil
		}
		return []*message.Message{msg}, nil
	})
	go router.Run(context.Background())
	<-router.Running()
	some := payloads(1000)
	messages := make([]*message.Message, b.N)
	for i := range messages {
		messages[i] = message.NewMessage(fmt.Sprint(i), some[i%1000])
	}
	b.ReportAllocs()
	b.ResetTimer()
	stop := cpu.Start(b)
	if err := ps.Publish("in", messages...); err != nil {
		b.Fatal(err)
	}
	<-done
	stop()
	b.StopTimer()
	router.Close()
}
