package orders

import (
	"strings"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
)

type (
	// Order comes in.
	Order struct {
		ID       string    `json:"id"`
		Customer string    `json:"customer"`
		Amount   int       `json:"amount"` // cents
		Placed   time.Time `json:"placed"`
	}
	// Payment pays an order, and comes in by a topic of its own.
	Payment struct {
		ID       string    `json:"id"`
		Order    string    `json:"order"`
		Customer string    `json:"customer"`
		Captured time.Time `json:"captured"`
	}
	// Outcome goes out, to one of two topics: with a payment or without.
	Outcome struct {
		Order    string `json:"order"`
		Customer string `json:"customer"`
		Amount   int    `json:"amount"`
		Payment  string `json:"payment,omitempty"`
	}
)

// payWithin is how long after its order a payment may come, or before it.
const payWithin = 2 * time.Hour

// topics are the names of the topics, behind a prefix.
type topics struct{ orders, payments, confirmed, unpaid string }

func topicsWith(prefix string) topics {
	return topics{prefix + "orders", prefix + "payments", prefix + "orders-confirmed", prefix + "orders-unpaid"}
}

func (t topics) all() []string { return []string{t.orders, t.payments, t.confirmed, t.unpaid} }

// decide is the pipeline.
func decide(t topics) *framework.Pipeline {
	p := framework.NewPipeline(pipelineName(t, "decide"))
	orders := framework.From(p, t.orders, framework.Source[Order]{
		ID:   func(o Order) string { return o.ID },
		Key:  func(o Order) string { return o.Customer },
		Time: func(o Order) time.Time { return o.Placed },
	})
	payments := framework.From(p, t.payments, framework.Source[Payment]{
		ID:   func(p Payment) string { return p.ID },
		Key:  func(p Payment) string { return p.Customer },
		Time: func(p Payment) time.Time { return p.Captured },
	})
	outcomes := processors.LeftJoin(orders, payments, "paid",
		processors.On(func(o Order) string { return o.ID }, func(p Payment) string { return p.Order }),
		processors.Window{Within: payWithin},
		func(o *framework.Event[Order], p *framework.Event[Payment]) (Outcome, error) {
			outcome := Outcome{Order: o.Data.ID, Customer: o.Data.Customer, Amount: o.Data.Amount}
			if p != nil {
				outcome.Payment = p.Data.ID
			}
			return outcome, nil
		})
	ways := processors.Branch(outcomes, "outcome",
		processors.When("confirmed", func(e *framework.Event[Outcome]) bool { return e.Data.Payment != "" }),
		processors.Otherwise[Outcome])
	framework.To(ways[0], t.confirmed, framework.Sink[Outcome]{Type: "OrderConfirmed"})
	framework.To(ways[1], t.unpaid, framework.Sink[Outcome]{Type: "OrderUnpaid"})
	return p
}

// count is the pipeline that counts outcomes, each once: the topics may hold one twice.
func count(t topics) *framework.Pipeline {
	p := framework.NewPipeline(pipelineName(t, "count"))
	for _, topic := range []string{t.confirmed, t.unpaid} {
		name := strings.TrimPrefix(topic, strings.TrimSuffix(t.orders, "orders"))
		in := framework.From(p, topic, framework.Source[Outcome]{Name: name,
			Key: func(o Outcome) string { return o.Customer }})
		once := processors.Distinct(in, "once:"+name, 3*24*time.Hour)
		processors.Filter(once, "counted:"+name, func(e *framework.Event[Outcome]) bool { return !closing(e.Data.Order) })
	}
	return p
}

// pipelineName puts the prefix of the topics before a name, so that runs with other prefixes are other pipelines.
func pipelineName(t topics, name string) string { return strings.TrimSuffix(t.orders, "orders") + name }
