package orders

import (
	"fmt"
	"hash/fnv"
	"strconv"
)

// Order is about 300 bytes of JSON.
type Order struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	Customer string `json:"customer"`
	Amount   int    `json:"amount"`
	Currency string `json:"currency"`
	SKU      string `json:"sku"`
	Ts       int64  `json:"ts"` // event time, milliseconds
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

// Confirm makes the output of W2. Its id follows from those of its causes.
func Confirm(order, payment, customer string, amount int) Confirmed {
	h := fnv.New64a()
	_, _ = h.Write([]byte(order + "|" + payment))
	return Confirmed{fmt.Sprintf("%016x", h.Sum64()), "OrderConfirmed", order, customer, amount}
}

// Rates is the first table of W1, by currency.
func Rates() map[string]float64 {
	return map[string]float64{"EUR": 1.08, "USD": 1, "GBP": 1.27, "JPY": 0.0067}
}

// Tiers is the second table of W1, by customer.
func Tiers() map[string]string {
	tiers := make(map[string]string, pricedCustomers)
	for i := range pricedCustomers {
		tiers["c-"+strconv.Itoa(i)] = []string{"gold", "silver", "bronze"}[i%3]
	}
	return tiers
}

// Wanted is the filter of W1. About half of the orders pass.
func (o *Order) Wanted() bool {
	return o.Amount > 333 && (o.Currency == "EUR" || o.Currency == "USD" || o.Currency == "GBP")
}
