package workload

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
)

// wanted is what both programs ask of a payload.
func wanted(payload []byte) bool { return payload[len(payload)-1]&1 == 0 }

// payloads are orders as JSON, and a digit. They are few, so that they are in the processor's cache as what has just
// been read would be.
func payloads() [][]byte {
	all := make([][]byte, 1000)
	for i, order := range orders(len(all)) {
		all[i] = fmt.Appendf(order.Value, "%d", i%10)
	}
	return all
}

func statelessMillrace(n int, dir string) (Result, error) {
	p := framework.NewPipeline("stateless")
	in := framework.From(p, "in", framework.Source[[]byte]{Codec: framework.Bytes()})
	kept := processors.Filter(in, "wanted", func(e *framework.Event[[]byte]) bool { return wanted(e.Data) })
	framework.To(kept, "out", framework.Sink[[]byte]{Codec: framework.Bytes()})
	records, some := make([]framework.Record, n), payloads()
	for i := range records {
		records[i] = framework.Record{ID: fmt.Sprint(i), Key: fmt.Sprint(i % 1000), Time: start, Value: some[i%1000]}
	}
	result, out, err := run(dir, p, map[string][]framework.Record{"in": records})
	if err != nil {
		return result, err
	}
	return result, expect("outputs", out["out"], (n+1)/2)
}

func statelessRouter(n int, _ string) (Result, error) {
	logger := watermill.NopLogger{}
	topics := gochannel.NewGoChannel(gochannel.Config{OutputChannelBuffer: 1000}, logger)
	router, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		return Result{}, err
	}
	var left, kept atomic.Int64
	left.Store(int64(n))
	done := make(chan struct{})
	router.AddHandler("wanted", "in", topics, "out", topics, func(msg *message.Message) ([]*message.Message, error) {
		defer func() {
			if left.Add(-1) == 0 {
				close(done)
			}
		}()
		if !wanted(msg.Payload) {
			return nil, nil
		}
		kept.Add(1)
		return []*message.Message{msg}, nil
	})
	go func() { _ = router.Run(context.Background()) }()
	<-router.Running()
	messages, some := make([]*message.Message, n), payloads()
	for i := range messages {
		messages[i] = message.NewMessage(fmt.Sprint(i), some[i%1000])
	}
	result, err := measure(n, func() error {
		err := topics.Publish("in", messages...)
		<-done
		return err
	})
	if err != nil {
		return result, err
	}
	if err := router.Close(); err != nil {
		return result, err
	}
	return result, expect("outputs", int(kept.Load()), (n+1)/2)
}
