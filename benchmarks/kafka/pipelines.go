package main

import (
	"fmt"
	"hash/fnv"
	"os"
	"strconv"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
)

// Order is about 300 bytes of JSON, Payment 150.
type Order struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	Customer string `json:"customer"`
	Amount   int    `json:"amount"`
	Currency string `json:"currency"`
	SKU      string `json:"sku"`
	Ts       int64  `json:"ts"` // milliseconds
	Channel  string `json:"channel"`
	Address  string `json:"address"`
	Note     string `json:"note"`
}

// Priced is what W1 makes of an order.
type Priced struct {
	Order
	Rate float64 `json:"rate"`
	Tier string  `json:"tier"`
}

// Payment pays an order.
type Payment struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	Order    string `json:"order"`
	Customer string `json:"customer"`
	Amount   int    `json:"amount"`
	Ts       int64  `json:"ts"`
	Method   string `json:"method"`
}

// Confirmed is what W2 makes of an order and its payment.
type Confirmed struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	Order    string `json:"order"`
	Customer string `json:"customer"`
	Amount   int    `json:"amount"`
}

func at(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

func orders(p *framework.Pipeline) *framework.Stream[Order] {
	return framework.From(p, os.Getenv("BENCH_ORDERS"), framework.Source[Order]{
		ID:   func(o Order) string { return o.ID },
		Time: func(o Order) time.Time { return at(o.Ts) },
	})
}

// enrich is W1.
func enrich(p *framework.Pipeline, consuming func()) {
	rates := processors.Table(map[string]float64{"EUR": 1.08, "USD": 1, "GBP": 1.27, "JPY": 0.0067})
	tiers := map[string]string{}
	for i := range 10_000 {
		tiers["c-"+strconv.Itoa(i)] = []string{"gold", "silver", "bronze"}[i%3]
	}
	kept := processors.Filter(orders(p), "kept", func(e *framework.Event[Order]) bool {
		consuming()
		return e.Data.Amount > 333 && (e.Data.Currency == "EUR" || e.Data.Currency == "USD" || e.Data.Currency == "GBP")
	})
	priced := processors.Enrich(kept, "priced", rates, func(o Order) string { return o.Currency },
		func(o Order, rate float64) Priced { return Priced{Order: o, Rate: rate, Tier: tiers[o.Customer]} })
	framework.To(priced, os.Getenv("BENCH_OUT"))
}

// join is W2. Nothing leaves the histories while it runs: all of its events are within an hour.
func join(p *framework.Pipeline, consuming func()) {
	payments := framework.From(p, os.Getenv("BENCH_PAYMENTS"), framework.Source[Payment]{
		ID:   func(p Payment) string { return p.ID },
		Time: func(p Payment) time.Time { consuming(); return at(p.Ts) },
	})
	confirmed := processors.Join(orders(p), payments, "confirmed",
		processors.On(func(o Order) string { return o.ID }, func(p Payment) string { return p.Order }),
		processors.Window{Within: time.Hour},
		func(o *framework.Event[Order], p *framework.Event[Payment]) (Confirmed, error) {
			return Confirmed{confirmID(o.Data.ID, p.Data.ID), "OrderConfirmed", o.Data.ID, o.Data.Customer, o.Data.Amount}, nil
		})
	framework.To(confirmed, os.Getenv("BENCH_OUT"))
}

func confirmID(order, payment string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(order + "|" + payment))
	return fmt.Sprintf("%016x", h.Sum64())
}
