package framework_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/transport/memory"
)

func Example() {
	type Order struct {
		Customer string    `json:"customer"`
		Amount   int       `json:"amount"`
		Placed   time.Time `json:"placed"`
	}
	p := framework.NewPipeline("totals")
	orders := framework.From(p, "orders", framework.Source[Order]{
		Key:  func(o Order) string { return o.Customer },
		Time: func(o Order) time.Time { return o.Placed },
	})
	sums := processors.Fold(orders, "sum", 0, func(sum int, e *framework.Event[Order]) (int, error) {
		return sum + e.Data.Amount, nil
	})
	framework.To(sums, "totals")

	topics, err := memory.New(memory.Config{Partitions: 1, AutoCreate: true})
	check(err)
	defer topics.Close()
	store, err := microstore.Open(microstore.Config{InMemory: true})
	check(err)
	defer store.Close()
	check(topics.Publish("orders",
		framework.Record{Value: []byte(`{"customer": "ada", "amount": 30, "placed": "2026-03-01T10:00:00Z"}`)},
		framework.Record{Value: []byte(`{"customer": "bob", "amount": 7, "placed": "2026-03-01T10:01:00Z"}`)},
		framework.Record{Value: []byte(`{"customer": "ada", "amount": 5, "placed": "2026-03-01T10:02:00Z"}`)},
	))
	check(topics.End("orders")) // else Run goes on until its context is done

	runner, err := framework.New(framework.Config{Store: store, Transport: topics}, p)
	check(err)
	check(runner.Run(context.Background()))
	for _, r := range topics.Records("totals") {
		fmt.Println(r.Key, string(r.Value))
	}
	// Output:
	// ada 30
	// bob 7
	// ada 35
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
