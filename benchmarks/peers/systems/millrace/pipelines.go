package main

import (
	"time"

	gojson "github.com/goccy/go-json"

	"github.com/millrace/millrace/benchmarks/peers/internal/orders"
	"github.com/millrace/millrace/benchmarks/peers/internal/system"
	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
)

func at(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// codec is Millrace's own unless another is asked for.
func codec[T any](task *system.Task) framework.Codec[T] {
	if task.Form == "goccy" {
		return goccy[T]{}
	}
	return framework.JSON[T]()
}

func source(p *framework.Pipeline, task *system.Task) *framework.Stream[orders.Order] {
	return framework.From(p, task.Orders, framework.Source[orders.Order]{
		Codec: codec[orders.Order](task),
		ID:    func(o orders.Order) string { return o.ID },
		Time:  func(o orders.Order) time.Time { return at(o.Ts) },
	})
}

// enrich is W1.
func enrich(p *framework.Pipeline, task *system.Task) {
	tiers := orders.Tiers()
	wanted := processors.Filter(source(p, task), "wanted", func(e *framework.Event[orders.Order]) bool {
		task.Consuming()
		return e.Data.Wanted()
	})
	priced := processors.Enrich(wanted, "priced", processors.Table(orders.Rates()),
		func(o orders.Order) string { return o.Currency },
		func(o orders.Order, rate float64) orders.Priced {
			return orders.Priced{Order: o, Rate: rate, Tier: tiers[o.Customer]}
		})
	framework.To(priced, task.Out, framework.Sink[orders.Priced]{Codec: codec[orders.Priced](task)})
}

// join is W2. Nothing leaves the histories while it runs: all of its events are within an hour.
func join(p *framework.Pipeline, task *system.Task) {
	payments := framework.From(p, task.Payments, framework.Source[orders.Payment]{
		ID:   func(p orders.Payment) string { return p.ID },
		Time: func(p orders.Payment) time.Time { task.Consuming(); return at(p.Ts) },
	})
	confirmed := processors.Join(source(p, task), payments, "confirmed",
		processors.On(func(o orders.Order) string { return o.ID }, func(p orders.Payment) string { return p.Order }),
		processors.Window{Within: time.Hour},
		func(o *framework.Event[orders.Order], p *framework.Event[orders.Payment]) (orders.Confirmed, error) {
			return orders.Confirm(o.Data.ID, p.Data.ID, o.Data.Customer, o.Data.Amount), nil
		})
	framework.To(confirmed, task.Out)
}

// goccy is a codec over github.com/goccy/go-json.
type goccy[T any] struct{}

func (goccy[T]) Decode(r *framework.Record, v *T) error { return gojson.Unmarshal(r.Value, v) }

func (goccy[T]) Append(dst []byte, v *T) ([]byte, error) {
	value, err := gojson.Marshal(v)
	return append(dst, value...), err
}
