package orders

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
)

const (
	customers   = 500
	unpaidEvery = 20 // every twentieth order is not paid
	feedChunk   = 500
)

var opening = time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)

// feeder sends orders and payments, and keeps how many it has sent. After a crash some are sent again, with the ids
// that they had.
type feeder struct {
	store     *microstore.Store
	publisher framework.Publisher
	topics    topics
	scheme    string // of the topics' transport
	orders    int
	out       io.Writer // for what does not end it
}

// fed is what the store knows of the feed: the run that it belongs to, and how many of its steps have been sent.
type fed struct {
	Orders int    `json:"orders"`
	Scheme string `json:"transport"`
	Sent   int    `json:"sent"`
}

// fedName names the value of the store that is the feed's.
func (f *feeder) fedName() string { return f.topics.orders + ".fed" }

// sent is how many steps have been sent. It is an error when they were those of another run: some of this one's would
// never be sent, or not to these topics.
func (f *feeder) sent() (int, error) {
	raw, found, err := f.store.Get(f.fedName())
	if err != nil || !found {
		return 0, err
	}
	var was fed
	if err := json.Unmarshal(raw, &was); err != nil {
		return 0, fmt.Errorf("read what was sent: %w; begin anew with --fresh", err)
	}
	if was.Scheme != f.scheme || f.orders != 0 && was.Orders != f.orders {
		return 0, fmt.Errorf("it holds another run, of %d orders over %s:, and this one is of %d over %s:; begin anew with --fresh or another "+
			"--state, and, where the topics are not in the state, with another --prefix", was.Orders, was.Scheme, f.orders, f.scheme)
	}
	return was.Sent, nil
}

func (f *feeder) keepSent(ctx context.Context, n int) error {
	raw, err := json.Marshal(fed{Orders: f.orders, Scheme: f.scheme, Sent: n})
	if err != nil {
		return err
	}
	b := f.store.NewBatch()
	b.Put(f.fedName(), raw)
	return f.store.Commit(ctx, b)
}

// run sends what has not been sent yet. A step is an order, and the payments that come with it.
func (f *feeder) run(ctx context.Context) error {
	if f.orders == 0 {
		return nil
	}
	from, err := f.sent()
	if err != nil {
		return err
	}
	steps := f.orders + customers
	if from == 0 { // before anything is sent, the store knows which run it is of
		if err := f.keepSent(ctx, 0); err != nil {
			return err
		}
	}
	for from < steps {
		to := min(from+feedChunk, steps)
		if err := f.send(ctx, from, to); err != nil {
			return err
		}
		from = to
		if err := f.keepSent(ctx, from); err != nil {
			return err
		}
	}
	return nil
}

// send sends steps.
func (f *feeder) send(ctx context.Context, from, to int) error {
	var orders, payments []framework.Record
	for i := from; i < to; i++ {
		o := order(i, f.orders)
		orders = append(orders, record(o.ID, "OrderPlaced", o.Customer, o.Placed, o))
		for _, p := range paymentsAt(i, f.orders) {
			payments = append(payments, record(p.ID, "PaymentCaptured", p.Customer, p.Captured, p))
		}
	}
	if err := f.publish(ctx, f.topics.orders, orders); err != nil {
		return err
	}
	return f.publish(ctx, f.topics.payments, payments)
}

// publish sends records. As the pipelines do with their outputs, it takes an error to pass, and tries again until ctx is
// done: whoever takes the records may be away, and does not always say it in so many words. Some may be there twice then,
// under the ids that they have. What is marked as fatal does not pass, such as a right that is lacking.
func (f *feeder) publish(ctx context.Context, topic string, records []framework.Record) error {
	for len(records) > 0 {
		err := f.publisher.Publish(ctx, topic, records)
		if err == nil || ctx.Err() != nil || framework.ClassOf(err) == framework.ClassFatal {
			return err
		}
		fmt.Fprintln(f.out, "orders: sending is tried again:", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// order is the i-th order: one a second. The last ones, one of each customer, come hours later: they move event time
// past the windows of all others, as the orders of the next day would.
func order(i, orders int) Order {
	placed := opening.Add(time.Duration(i) * time.Second)
	o := Order{ID: fmt.Sprintf("order-%06d", i), Customer: customer(i), Amount: 100 + i*37%9900, Placed: placed}
	if i >= orders {
		o.ID, o.Placed = fmt.Sprintf("closing-%03d", i-orders), placed.Add(2*payWithin)
		o.Customer = customer(i - orders)
	}
	return o
}

func customer(i int) string { return fmt.Sprintf("customer-%03d", i%customers) }

// closing tells whether an order is one of the last, which nobody counts.
func closing(order string) bool { return strings.HasPrefix(order, "closing-") }

// wait is how many seconds after its order a payment comes: up to an hour after it, or a minute before it.
func wait(i int) int { return i*7919%3660 - 60 }

func paid(i int) bool { return i%unpaidEvery != 7 }

// paymentsAt are the payments that come in the second of the i-th order, those of the closing orders at once.
func paymentsAt(i, orders int) (all []Payment) {
	if i >= orders {
		if i == orders { // first, those that are still to come
			for late := orders; late <= orders+3600; late++ {
				all = append(all, paymentsAfter(late, orders)...)
			}
		}
		return append(all, payment(order(i, orders), 0))
	}
	return paymentsAfter(i, orders)
}

// paymentsAfter are the payments of orders before the closing ones that come in second at.
func paymentsAfter(at, orders int) (all []Payment) {
	for i := max(0, at-3600); i <= min(at+60, orders-1); i++ {
		if paid(i) && i+wait(i) == at || at == 0 && paid(i) && i+wait(i) < 0 {
			all = append(all, payment(order(i, orders), wait(i)))
		}
	}
	return all
}

func payment(o Order, after int) Payment {
	return Payment{ID: "payment-of-" + o.ID, Order: o.ID, Customer: o.Customer, Captured: o.Placed.Add(time.Duration(after) * time.Second)}
}

func record(id, kind, key string, at time.Time, data any) framework.Record {
	value, err := json.Marshal(data)
	if err != nil {
		panic(err) // of strings, numbers and times
	}
	return framework.Record{ID: id, Type: kind, Source: "shop", Key: key, Time: at, Value: value}
}

// expected is how many orders will be confirmed, and how many not.
func expected(orders int) (confirmed, unpaid int64) {
	for i := range orders {
		if paid(i) {
			confirmed++
		} else {
			unpaid++
		}
	}
	return confirmed, unpaid
}
