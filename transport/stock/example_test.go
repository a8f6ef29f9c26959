package stock_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/transport/embedded"
	"github.com/millrace/millrace/transport/stock"
)

type Purchase struct {
	Amount int `json:"amount"`
}

// A Pub/Sub of your own becomes a transport by one call: here one value that serves all.
func ExampleNew() {
	own := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
	defer own.Close()
	transport, err := stock.New(stock.Config{
		Subscriber: stock.SharedSubscriber(own), Publisher: stock.SharedPublisher(own),
	})
	if err != nil {
		log.Fatal(err)
	}

	p := framework.NewPipeline("large")
	purchases := framework.From[Purchase](p, "purchases")
	framework.To(processors.Filter(purchases, "over 100", func(e *framework.Event[Purchase]) bool { return e.Data.Amount > 100 }), "large")
	if err := runUntilOne(transport, own, p); err != nil {
		log.Fatal(err)
	}
	// Output: {"amount":250}
}

// runUntilOne sends two purchases, and runs the pipeline until one has come out.
func runUntilOne(transport framework.Transport, own *gochannel.GoChannel, p *framework.Pipeline) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	store, err := microstore.Open(microstore.Config{Dir: dir})
	if err != nil {
		return err
	}
	defer store.Close()
	local, err := embedded.New(store, embedded.Config{}) // dead letters, and topics between stages
	if err != nil {
		return err
	}
	runner, err := framework.New(framework.Config{Store: store, Transport: transport, Internal: local}, p)
	if err != nil {
		return err
	}
	large, err := own.Subscribe(ctx, "large")
	if err != nil {
		return err
	}
	for _, amount := range []int{50, 250} {
		msg := message.NewMessage(watermill.NewUUID(), fmt.Appendf(nil, `{"amount":%d}`, amount))
		msg.Metadata.Set(framework.MetadataKey, "customer 7")
		msg.Metadata.Set(framework.MetadataTime, "2026-06-01T12:00:00Z")
		if err := own.Publish("purchases", msg); err != nil {
			return err
		}
	}
	ran := make(chan error, 1)
	go func() { ran <- runner.Run(ctx) }()
	select {
	case msg := <-large:
		fmt.Println(string(msg.Payload))
		msg.Ack()
		stop()
		return <-ran
	case err := <-ran:
		return err
	}
}
