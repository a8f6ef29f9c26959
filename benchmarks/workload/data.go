package workload

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/millrace/millrace/framework"
)

// Order is about 300 bytes of JSON, Payment 150.
type Order struct {
	ID       string    `json:"id"`
	Customer string    `json:"customer"`
	Amount   int       `json:"amount"`
	Currency string    `json:"currency"`
	Placed   time.Time `json:"placed"`
	Note     string    `json:"note"`
}

// Payment pays one order.
type Payment struct {
	ID       string    `json:"id"`
	Order    string    `json:"order"`
	Customer string    `json:"customer"`
	Amount   int       `json:"amount"`
	Captured time.Time `json:"captured"`
}

// Confirmed is an order and its payment.
type Confirmed struct {
	Order    string `json:"order"`
	Payment  string `json:"payment"`
	Customer string `json:"customer"`
	Amount   int    `json:"amount"`
}

// Priced is an order with what two tables say of it.
type Priced struct {
	Order
	Rate float64 `json:"rate"`
	Tier string  `json:"tier"`
}

const (
	customers = 50_000
	shift     = 20_000 // how many records a payment may be away from its order
	partOf    = 4      // partitions
)

var (
	start      = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	currencies = []string{"EUR", "USD", "GBP", "CHF"}
	rates      = map[string]float64{"EUR": 1, "USD": 1.1, "GBP": 0.85, "CHF": 0.95}
	note       = strings.Repeat("as ordered ", 14)
)

// orders makes n orders, 10 ms apart.
func orders(n int) []framework.Record {
	codec := framework.JSON[Order]()
	all := make([]framework.Record, n)
	for i := range all {
		o := Order{ID: fmt.Sprintf("order-%d", i), Customer: customer(i), Amount: i % 1000,
			Currency: currencies[i%4], Placed: start.Add(time.Duration(i) * 10 * time.Millisecond), Note: note}
		value, err := codec.Append(nil, &o)
		if err != nil {
			panic(err)
		}
		all[i] = framework.Record{ID: o.ID, Key: o.Customer, Time: o.Placed, Value: value}
	}
	return all
}

func customer(order int) string {
	return fmt.Sprintf("customer-%d", rand.New(rand.NewPCG(1, uint64(order))).IntN(customers))
}

// payments makes one payment for each order, up to shift records earlier or later.
func payments(n int) []framework.Record {
	codec := framework.JSON[Payment]()
	random := rand.New(rand.NewPCG(2, 2))
	all := make([]framework.Record, n)
	for i := range all {
		all[i] = framework.Record{Offset: int64(i)}
	}
	for window := 0; window < n; window += shift { // a payment stays within its window
		end := min(window+shift, n)
		random.Shuffle(end-window, func(a, b int) {
			all[window+a].Offset, all[window+b].Offset = all[window+b].Offset, all[window+a].Offset
		})
	}
	for i := range all {
		order := int(all[i].Offset)
		p := Payment{ID: fmt.Sprintf("payment-%d", order), Order: fmt.Sprintf("order-%d", order), Customer: customer(order),
			Amount: order % 1000, Captured: start.Add(time.Duration(i) * 10 * time.Millisecond)}
		value, err := codec.Append(nil, &p)
		if err != nil {
			panic(err)
		}
		all[i] = framework.Record{ID: p.ID, Key: p.Customer, Time: p.Captured, Value: value}
	}
	return all
}
