package processors_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
	"github.com/millrace/millrace/processors"
)

type Order struct {
	ID     string
	Amount int
}

type Payment struct {
	OrderID string
	Amount  int
}

func order(customer, id string, amount int, minute float64) *framework.Event[Order] {
	return framework.NewEvent("order-"+id, customer, at(minute), Order{ID: id, Amount: amount})
}

func payment(customer, id string, minute float64) *framework.Event[Payment] {
	return framework.NewEvent("payment-"+id, customer, at(minute), Payment{OrderID: id})
}

func (o Order) Reference() string   { return o.ID }
func (p Payment) Reference() string { return p.OrderID }

func ExampleFilter() {
	p := framework.NewPipeline("shop")
	orders := framework.From[Order](p, "orders")
	big := processors.Filter(orders, "big", func(e *framework.Event[Order]) bool { return e.Data.Amount >= 100 })
	framework.To(processors.MapData(big, "reference", Order.Reference), "big-orders")

	drive(p, func(d *frameworktest.Driver) {
		frameworktest.Send(d, "orders", order("ann", "o1", 50, 0), order("bob", "o2", 150, 1))
		printAll[string](d, "big-orders")
	})
	// Output:
	// bob 12:01 o2
}

func ExampleSplit() {
	p := framework.NewPipeline("shop")
	lines := framework.From[string](p, "lines")
	words := processors.Split(lines, "words", func(e *framework.Event[string]) ([]string, error) {
		return strings.Fields(e.Data), nil
	})
	framework.To(words, "words-out")

	drive(p, func(d *frameworktest.Driver) {
		frameworktest.Send(d, "lines", framework.NewEvent("1", "k", at(0), "to be or"))
		printAll[string](d, "words-out")
	})
	// Output:
	// k 12:00 to
	// k 12:00 be
	// k 12:00 or
}

func ExampleBranch() {
	p := framework.NewPipeline("shop")
	orders := framework.From[Order](p, "orders")
	sizes := processors.Branch(orders, "size",
		processors.When("big", func(e *framework.Event[Order]) bool { return e.Data.Amount >= 100 }),
		processors.Otherwise)
	framework.To(processors.MapData(sizes[0], "big", Order.Reference), "big-orders")
	framework.To(processors.MapData(sizes[1], "small", Order.Reference), "small-orders")

	drive(p, func(d *frameworktest.Driver) {
		frameworktest.Send(d, "orders", order("ann", "o1", 50, 0), order("bob", "o2", 150, 1))
		printAll[string](d, "big-orders")
		printAll[string](d, "small-orders")
	})
	// Output:
	// bob 12:01 o2
	// ann 12:00 o1
}

func ExampleEnrich() {
	names := processors.Table(map[string]string{"o1": "a book"})

	p := framework.NewPipeline("shop")
	orders := framework.From[Order](p, "orders")
	named := processors.Enrich(orders, "named", names, Order.Reference,
		func(o Order, name string) string { return fmt.Sprintf("%s for %d", name, o.Amount) })
	framework.To(named, "named-orders")

	drive(p, func(d *frameworktest.Driver) {
		frameworktest.Send(d, "orders", order("ann", "o1", 50, 0), order("ann", "o2", 10, 1))
		printAll[string](d, "named-orders")
		fmt.Println(d.Faults()[0].Error)
	})
	// Output:
	// ann 12:00 a book for 50
	// look up o2: no such key
}

func ExampleGuard() {
	calls := 0
	service := processors.LookupFunc(func(_ context.Context, key string) (int, bool, error) {
		calls++
		return len(key), true, nil
	})
	rates := processors.Cached(processors.Guard(service, processors.GuardConfig{Timeout: time.Second, Outstanding: 8}),
		processors.CacheConfig{TTL: time.Minute, StaleFor: time.Hour})
	for range 3 {
		rate, _, _ := rates.Lookup(context.Background(), "EUR")
		fmt.Println(rate)
	}
	fmt.Println("calls:", calls)
	// Output:
	// 3
	// 3
	// 3
	// calls: 1
}

func ExampleFold() {
	p := framework.NewPipeline("shop")
	orders := framework.From[Order](p, "orders")
	totals := processors.Fold(orders, "totals", 0, func(sum int, e *framework.Event[Order]) (int, error) {
		return sum + e.Data.Amount, nil
	})
	framework.To(totals, "totals-out")

	drive(p, func(d *frameworktest.Driver) {
		frameworktest.Send(d, "orders", order("ann", "o1", 50, 0), order("bob", "o2", 7, 1), order("ann", "o3", 30, 2))
		printAll[int](d, "totals-out")
	})
	// Output:
	// ann 12:00 50
	// bob 12:01 7
	// ann 12:02 80
}

func ExampleEvaluate() {
	p := framework.NewPipeline("shop")
	orders := framework.From[Order](p, "orders")
	recent := processors.Collect(orders, "recent", processors.CollectConfig{Retain: 10 * time.Minute})
	bursts := processors.Evaluate(recent, "bursts",
		func(h framework.View[Order], _ *framework.Event[Order]) ([]processors.Emission[string], error) {
			if h.Len() < 3 {
				return nil, nil
			}
			n := h.Len()
			return processors.EmitFor("three orders in ten minutes", h.At(n-3), h.At(n-2), h.At(n-1)), nil
		})
	framework.To(bursts, "alerts")

	drive(p, func(d *frameworktest.Driver) {
		frameworktest.Send(d, "orders", order("ann", "o1", 1, 0), order("ann", "o2", 1, 4), order("ann", "o3", 1, 8))
		printAll[string](d, "alerts")
	})
	// Output:
	// ann 12:08 three orders in ten minutes
}

func ExampleExpire() {
	p := framework.NewPipeline("shop")
	orders := framework.From[Order](p, "orders")
	kept := processors.Collect(orders, "kept", processors.CollectConfig{Retain: 2 * time.Hour})
	silent := processors.Expire(kept, "silent", time.Hour,
		func(h framework.View[Order], e *framework.Event[Order]) (string, bool, error) {
			newest := h.At(h.Len() - 1)
			return "no order since " + e.Data.ID, newest.ID() == e.ID(), nil
		})
	framework.To(silent, "alerts")

	drive(p, func(d *frameworktest.Driver) {
		frameworktest.Send(d, "orders", order("ann", "o1", 1, 0), order("ann", "o2", 1, 30))
		d.Advance(at(120))
		printAll[string](d, "alerts")
	})
	// Output:
	// ann 13:30 no order since o2
}

func ExampleLeftJoin() {
	p := framework.NewPipeline("shop")
	orders := framework.From[Order](p, "orders")
	payments := framework.From[Payment](p, "payments")
	paid := processors.LeftJoin(orders, payments, "paid", processors.On(Order.Reference, Payment.Reference),
		processors.Window{After: 2 * time.Hour},
		func(o *framework.Event[Order], p *framework.Event[Payment]) (string, error) {
			if p == nil {
				return o.Data.ID + " was not paid", nil
			}
			return fmt.Sprintf("%s was paid after %v", o.Data.ID, p.Time.Sub(o.Time)), nil
		})
	framework.To(paid, "outcomes")

	drive(p, func(d *frameworktest.Driver) {
		frameworktest.Send(d, "orders", order("ann", "o1", 50, 0), order("ann", "o2", 20, 1))
		frameworktest.Send(d, "payments", payment("ann", "o1", 90))
		d.Advance(at(180))
		printAll[string](d, "outcomes")
	})
	// Output:
	// ann 13:30 o1 was paid after 1h30m0s
	// ann 12:01 o2 was not paid
}

func ExampleSelfJoin() {
	p := framework.NewPipeline("shop")
	orders := framework.From[Order](p, "orders")
	doubles := processors.SelfJoin(orders, "doubles", nil, processors.Window{Within: time.Minute},
		func(earlier, later *framework.Event[Order]) (string, bool, error) {
			return earlier.Data.ID + " and " + later.Data.ID, earlier.Data.Amount == later.Data.Amount, nil
		})
	framework.To(doubles, "alerts")

	drive(p, func(d *frameworktest.Driver) {
		frameworktest.Send(d, "orders", order("ann", "o1", 50, 0), order("ann", "o2", 20, 0.5), order("ann", "o3", 50, 1))
		printAll[string](d, "alerts")
	})
	// Output:
	// ann 12:01 o1 and o3
}

func ExampleCompact() {
	p := framework.NewPipeline("shop")
	prices := framework.From[int](p, "prices")
	newest := processors.Compact(prices, "newest", processors.Tumbling{Size: 10 * time.Minute},
		func(window framework.View[int]) (string, error) {
			return fmt.Sprintf("%d, after %d others", window.At(window.Len()-1).Data, window.Len()-1), nil
		})
	framework.To(newest, "newest-prices")

	drive(p, func(d *frameworktest.Driver) {
		for i, price := range []int{100, 102, 99, 105} {
			frameworktest.Send(d, "prices", framework.NewEvent(fmt.Sprint(i), "gold", at(float64(4*i)), price))
		}
		d.End()
		printAll[string](d, "newest-prices")
	})
	// Output:
	// gold 12:08 99, after 2 others
	// gold 12:12 105, after 0 others
}

// printAll prints the events of a topic.
func printAll[T any](d *frameworktest.Driver, topic string) {
	for _, e := range frameworktest.Outputs[T](d, topic) {
		fmt.Println(e.Key, e.Time.Format("15:04"), e.Data)
	}
}

// drive runs a pipeline for an example, which has no testing.TB.
func drive(p *framework.Pipeline, body func(*frameworktest.Driver)) {
	tb := &exampleTB{}
	defer tb.end()
	body(frameworktest.New(tb, frameworktest.Config{}, p))
}

type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (e *exampleTB) Helper()           {}
func (e *exampleTB) Cleanup(f func())  { e.cleanups = append(e.cleanups, f) }
func (e *exampleTB) Error(args ...any) { fmt.Println(args...) }
func (e *exampleTB) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

func (e *exampleTB) TempDir() string {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	e.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (e *exampleTB) end() {
	for i := len(e.cleanups) - 1; i >= 0; i-- {
		e.cleanups[i]()
	}
}
