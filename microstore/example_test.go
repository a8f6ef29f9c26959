package microstore_test

import (
	"context"
	"fmt"

	"github.com/millrace/millrace/microstore"
)

// What a batch of events causes is collected and committed at once: an entry in a history, a timer, a record in
// a log, and the position that was reached.
func Example() {
	if err := run(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// added: true
	// again: false
	// payment-1 at 100
	// timer for customer-7 at 160
}

func run(ctx context.Context) error {
	s, err := microstore.Open(microstore.Config{InMemory: true})
	if err != nil {
		return err
	}
	defer s.Close()
	task, err := s.Task("orders/3")
	if err != nil {
		return err
	}
	payments, err := task.History("payments", microstore.HistoryConfig{MaxCount: 100})
	if err != nil {
		return err
	}
	timers, err := task.Timers()
	if err != nil {
		return err
	}
	log, err := s.Log("confirmed/3")
	if err != nil {
		return err
	}

	const floor = 0 // watermark minus retention
	b := s.NewBatch()
	for _, again := range []string{"added", "again"} {
		e := &microstore.Entry{Time: 100, ID: "payment-1", Value: []byte("12 EUR")}
		added, err := payments.Append(b, "customer-7", "order-9", e, floor)
		if err != nil {
			return err
		}
		fmt.Printf("%s: %v\n", again, added)
	}
	if err := timers.Set(b, microstore.Timer{At: 160, Step: 1, Key: "customer-7"}); err != nil {
		return err
	}
	log.Append(b, 1, 100, 100, []byte("confirmed"))
	task.SetMeta(b, []byte("offset 1"))
	if err := s.Commit(ctx, b); err != nil {
		return err
	}

	view, err := payments.View("customer-7", "order-9", floor)
	if err != nil {
		return err
	}
	for e := range view.Forward() {
		fmt.Println(e.ID, "at", e.Time)
	}
	bound, _, err := timers.Load(200, 1000)
	if err != nil {
		return err
	}
	due, ok := timers.Pop(s.NewBatch(), microstore.Shard("customer-7"), bound)
	if ok {
		fmt.Println("timer for", due.Key, "at", due.At)
	}
	return nil
}
