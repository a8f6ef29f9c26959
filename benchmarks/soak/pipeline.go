package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
)

// An order is told by its kind what is to become of it.
const (
	goodKind   = ""
	lookupKind = "lookup" // the lookup fails while things are broken
	checkKind  = "check"  // the step behind a fold fails
	behindKind = "behind" // the step behind the join fails, for pairs and for timers
	windowKind = "window" // the function of a window fails, which a timer runs
	lateKind   = "late"   // it comes hours late
	closerKind = "closer" // it is there to move event time on, and is left out
)

type order struct {
	ID, Customer, Kind string
	Amount             int
	Time               time.Time
	Pad                string `json:",omitempty"`
}

func (o *order) kept() bool      { return o.Kind != closerKind && o.Amount%7 != 0 }
func (o *order) product() string { return fmt.Sprint("p", o.Amount%20) }

// mayChange tells whether the order fails at a place where others of its key overtake it, unless keys are parked.
func (o *order) mayChange() bool { return o.Kind == lookupKind || o.Kind == checkKind }

type payment struct {
	ID, Order, Customer, Kind string
	Time                      time.Time
}

// Outputs. Those that count carry the number of the order among those of its key, so that order and loss show.
type (
	priced struct {
		order
		Product string
	}
	numbered struct {
		Key, Order, Kind string
		N                int
	}
	item struct {
		Order string
		I     int
	}
	pair     struct{ A, B string }
	decision struct{ Order, Product, Payment, Kind string }
	window   struct{ Orders []string }
)

// The topics of outputs.
const (
	numberedTopic = "numbered" // orders of a customer, numbered
	itemsTopic    = "items"    // two of each order
	pairsTopic    = "pairs"    // orders of a customer within a minute
	decidedTopic  = "decided"  // each order with its payment, or alone
	productsTopic = "products" // decisions of a product, numbered
	windowsTopic  = "windows"  // decisions of a product within five minutes
	expiredTopic  = "expired"  // each decision when it has expired
	totalsTopic   = "totals"   // what products has, numbered by a third key
	faultsTopic   = "soak.faults"
)

var outputs = []string{numberedTopic, itemsTopic, pairsTopic, decidedTopic, productsTopic, windowsTopic, expiredTopic, totalsTopic}

var errBroken = errors.New("it is broken")

// build makes the pipeline: three stages, by customer, by product and by a third key, with every step that keeps state or has
// timers.
func build(s *settings) *framework.Pipeline {
	p := framework.NewPipeline(s.pipeline())
	if s.logs() {
		p.Changelog(framework.Changelog{CopyBytes: s.CopyBytes})
	}
	if s.parks() {
		p.Park(framework.Parking{Hold: time.Duration(s.Hold) * time.Second})
	}
	decided := byCustomer(p, s)
	counts := byProduct(p, s, decided)
	again := processors.ReKey(counts, "again", func(e *framework.Event[numbered]) string { return fmt.Sprint("t", e.Data.N%3) })
	framework.To(number(again, "total", func(n numbered) (string, string) { return n.Order, n.Kind }), s.topic(totalsTopic))
	return p
}

// failing is an error of an event of this kind, while things are broken.
func (s *settings) failing(kind, failing string) error {
	if kind == failing && s.broken() {
		return framework.Permanent(errBroken)
	}
	return nil
}

// number counts events by key.
func number[T any](in *framework.Stream[T], name string, of func(T) (order, kind string)) *framework.Stream[numbered] {
	return processors.Fold(in, name, numbered{}, func(last numbered, e *framework.Event[T]) (numbered, error) {
		id, kind := of(e.Data)
		return numbered{Key: e.Key, Order: id, Kind: kind, N: last.N + 1}, nil
	})
}

func byCustomer(p *framework.Pipeline, s *settings) *framework.Stream[decision] {
	orders := framework.From(p, s.topic("orders"), framework.Source[order]{
		Key: func(o order) string { return o.Customer }, Time: func(o order) time.Time { return o.Time }, OutOfOrder: outOfOrder,
	})
	payments := framework.From(p, s.topic("payments"), framework.Source[payment]{
		Key: func(p payment) string { return p.Customer }, Time: func(p payment) time.Time { return p.Time }, OutOfOrder: outOfOrder,
	})
	kept := processors.Filter(orders, "kept", func(e *framework.Event[order]) bool { return e.Data.kept() })
	paid := processors.Filter(payments, "paid", func(e *framework.Event[payment]) bool { return e.Data.Kind != closerKind })
	if s.Distinct {
		kept = processors.Distinct(kept, "distinct", 3000*time.Hour)
	}
	var flaky flaky
	products := processors.LookupFunc(func(_ context.Context, o order) (string, bool, error) {
		if err := flaky.try(&o); err != nil {
			return "", false, err
		}
		return o.product(), true, s.failing(o.Kind, lookupKind)
	})
	with := processors.Enrich(kept, "priced", products, func(o order) order { return o },
		func(o order, product string) priced { return priced{o, product} })
	if !s.JoinFirst {
		numberOrders(s, with)
	}
	decided := processors.LeftJoin(with, paid, "join",
		processors.On(func(o priced) string { return o.ID }, func(p payment) string { return p.Order }),
		processors.Window{Before: joinBefore, After: joinAfter},
		func(o *framework.Event[priced], p *framework.Event[payment]) (decision, error) {
			d := decision{Order: o.Data.ID, Product: o.Data.Product, Kind: o.Data.Kind}
			if p != nil {
				d.Payment = p.Data.ID
			}
			return d, nil
		})
	decided = processors.Map(decided, "behind", func(e *framework.Event[decision]) (decision, error) {
		return e.Data, s.failing(e.Data.Kind, behindKind)
	})
	framework.To(decided, s.topic(decidedTopic))
	if s.JoinFirst {
		numberOrders(s, with)
	}
	framework.To(processors.SelfJoin(with, "pairs", nil, processors.Window{Within: pairWithin},
		func(a, b *framework.Event[priced]) (pair, bool, error) {
			return pairOf(a.Data.ID, b.Data.ID), true, nil
		}), s.topic(pairsTopic))
	framework.To(processors.Split(with, "split", func(e *framework.Event[priced]) ([]item, error) {
		return []item{{e.Data.ID, 0}, {e.Data.ID, 1}}, nil
	}), s.topic(itemsTopic))
	return decided
}

func pairOf(a, b string) pair { return pair{min(a, b), max(a, b)} }

func numberOrders(s *settings, in *framework.Stream[priced]) {
	n := number(in, "number", func(o priced) (string, string) { return o.ID, o.Kind })
	framework.To(processors.Map(n, "check", func(e *framework.Event[numbered]) (numbered, error) {
		return e.Data, s.failing(e.Data.Kind, checkKind)
	}), s.topic(numberedTopic))
}

func byProduct(p *framework.Pipeline, s *settings, decided *framework.Stream[decision]) *framework.Stream[numbered] {
	by := processors.ReKey(decided, "product", func(e *framework.Event[decision]) string { return e.Data.Product })
	counts := number(by, "count", func(d decision) (string, string) { return d.Order, d.Kind })
	framework.To(counts, s.topic(productsTopic))
	windows := processors.Compact(by, "windows", processors.Tumbling{Size: 5 * time.Minute},
		func(v framework.View[decision]) (window, error) {
			var w window
			for e := range v.All {
				w.Orders = append(w.Orders, e.Data.Order)
				if err := s.failing(e.Data.Kind, windowKind); err != nil {
					return w, err
				}
			}
			return w, nil
		})
	framework.To(windows, s.topic(windowsTopic))
	collected := processors.Collect(by, "collect", processors.CollectConfig{Retain: 20 * time.Minute})
	framework.To(processors.Expire(collected, "expire", 7*time.Minute,
		func(_ framework.View[decision], e *framework.Event[decision]) (decision, bool, error) {
			return e.Data, true, nil
		},
	), s.topic(expiredTopic))
	return counts
}

// flaky fails a few times for some orders, and then no more, so that nothing fails for good.
type flaky struct {
	mu    sync.Mutex
	tries map[string]int
}

func (f *flaky) try(o *order) error {
	fails := 0
	if o.Amount%33 == 1 {
		fails = 1 + o.Amount%3 // of five attempts
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tries[o.ID] == fails {
		return nil
	}
	if f.tries == nil {
		f.tries = map[string]int{}
	}
	f.tries[o.ID]++
	return framework.Transient(errors.New("the lookup is flaky"))
}
