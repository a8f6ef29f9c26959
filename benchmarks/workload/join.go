package workload

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/dgraph-io/badger/v4"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
)

func confirm(o *Order, p *Payment) Confirmed {
	return Confirmed{Order: o.ID, Payment: p.ID, Customer: o.Customer, Amount: o.Amount}
}

// confirmations is the pipeline: orders and payments of one customer, joined by the order's id within an hour.
func confirmations() *framework.Pipeline {
	p := framework.NewPipeline("join")
	orders := framework.From(p, "orders", framework.Source[Order]{
		Key: func(o Order) string { return o.Customer }, Time: func(o Order) time.Time { return o.Placed }})
	payments := framework.From(p, "payments", framework.Source[Payment]{
		Key: func(p Payment) string { return p.Customer }, Time: func(p Payment) time.Time { return p.Captured }})
	paid := processors.Join(orders, payments, "paid",
		processors.On(func(o Order) string { return o.ID }, func(p Payment) string { return p.Order }),
		processors.Window{Within: time.Hour},
		func(o *framework.Event[Order], p *framework.Event[Payment]) (Confirmed, error) {
			return confirm(&o.Data, &p.Data), nil
		})
	framework.To(paid, "confirmed")
	return p
}

func joinMillrace(n int, dir string) (Result, error) {
	result, out, err := run(dir, confirmations(), map[string][]framework.Record{"orders": orders(n / 2), "payments": payments(n / 2)})
	if err != nil {
		return result, err
	}
	return result, expect("outputs", out["confirmed"], n/2)
}

func openBadger(dir string) (*badger.DB, error) {
	return badger.Open(badger.DefaultOptions(dir).WithLogger(nil).WithDetectConflicts(false).WithMetricsEnabled(false))
}

// handle does what the join does for one event in a transaction: look for the partner, keep the event.
func handle(txn *badger.Txn, r *framework.Record, isOrder bool) (out []byte, err error) {
	var (
		o        Order
		p        Payment
		customer string
		id       string
	)
	if isOrder {
		err = framework.JSON[Order]().Decode(r, &o)
		customer, id = o.Customer, o.ID
	} else {
		err = framework.JSON[Payment]().Decode(r, &p)
		customer, id = p.Customer, p.Order
	}
	if err != nil {
		return nil, err
	}
	mine, other := joinKey(customer, id, isOrder), joinKey(customer, id, !isOrder)
	if _, err := txn.Get(mine); err == nil {
		return nil, nil // a duplicate
	} else if !errors.Is(err, badger.ErrKeyNotFound) {
		return nil, err
	}
	if err := txn.Set(mine, r.Value); err != nil {
		return nil, err
	}
	item, err := txn.Get(other)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = item.Value(func(value []byte) error {
		partner := framework.Record{Value: value}
		if isOrder {
			return framework.JSON[Payment]().Decode(&partner, &p)
		}
		return framework.JSON[Order]().Decode(&partner, &o)
	})
	if err != nil {
		return nil, err
	}
	c := confirm(&o, &p)
	return framework.JSON[Confirmed]().Append(nil, &c)
}

func joinKey(customer, order string, isOrder bool) []byte {
	side := byte('p')
	if isOrder {
		side = 'o'
	}
	return append(fmt.Appendf(nil, "%s\x00%s\x00", customer, order), side)
}

// joinLoop does the join's work in Badger and nothing else: one loop, a transaction for 1,000 events.
func joinLoop(n int, dir string) (Result, error) {
	db, err := openBadger(dir)
	if err != nil {
		return Result{}, err
	}
	defer db.Close()
	o, p := orders(n/2), payments(n/2)
	var out [][]byte
	result, err := measure(n, func() error {
		txn := db.NewTransaction(true)
		for i := range n {
			value, err := handle(txn, pick(o, p, i), i%2 == 0)
			if err != nil {
				return err
			}
			if value != nil {
				out = append(out, value)
			}
			if i%1000 == 999 || i == n-1 {
				if err := txn.Commit(); err != nil {
					return err
				}
				txn = db.NewTransaction(true)
			}
		}
		txn.Discard()
		return nil
	})
	if err != nil {
		return result, err
	}
	return result, expect("outputs", len(out), n/2)
}

func pick(o, p []framework.Record, i int) *framework.Record {
	if i%2 == 0 {
		return &o[i/2]
	}
	return &p[i/2]
}

// joinWatermill is the handler that is written by hand today: one message, one transaction.
func joinWatermill(n int, dir string) (Result, error) {
	db, err := openBadger(dir)
	if err != nil {
		return Result{}, err
	}
	defer db.Close()
	logger := watermill.NopLogger{}
	topics := gochannel.NewGoChannel(gochannel.Config{OutputChannelBuffer: 1000, BlockPublishUntilSubscriberAck: true}, logger)
	router, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		return Result{}, err
	}
	var left, made atomic.Int64
	left.Store(int64(n))
	done := make(chan struct{})
	// One topic: with one message in flight, an event sees what the one before it wrote.
	router.AddHandler("paid", "events", topics, "confirmed", topics, func(msg *message.Message) (out []*message.Message, err error) {
		err = db.Update(func(txn *badger.Txn) error {
			value, err := handle(txn, &framework.Record{Value: msg.Payload}, msg.Metadata.Get("type") == "order")
			if err == nil && value != nil {
				out = append(out, message.NewMessage(watermill.NewShortUUID(), value))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		made.Add(int64(len(out)))
		if left.Add(-1) == 0 {
			close(done)
		}
		return out, nil
	})
	go func() { _ = router.Run(context.Background()) }()
	<-router.Running()
	o, p := orders(n/2), payments(n/2)
	messages := make([]*message.Message, n)
	for i := range messages {
		r := pick(o, p, i)
		messages[i] = message.NewMessage(r.ID, r.Value)
		if i%2 == 0 {
			messages[i].Metadata.Set("type", "order")
		}
	}
	result, err := measure(n, func() error {
		err := topics.Publish("events", messages...)
		<-done
		return err
	})
	if err != nil {
		return result, err
	}
	if err := router.Close(); err != nil {
		return result, err
	}
	return result, expect("outputs", int(made.Load()), n/2)
}
