package orders

import (
	"cmp"
	"slices"
	"strconv"
)

const (
	// Partitions of every topic.
	Partitions = 4

	pricedCustomers = 10_000
	ordersPerJoined = 20                // of a customer of W2: 50,000 customers for a million orders
	shift           = 39_000            // of a payment; half of it is how far it gets from its order
	start           = 1_760_000_000_000 // event time of the first order; each next one is a millisecond later
)

// Set is the input of one run.
type Set struct {
	Workload string // "W1" or "W2"
	Orders   int
}

// Inputs is how many records there are.
func (s Set) Inputs() int {
	if s.Workload == "W2" {
		return 2 * s.Orders
	}
	return s.Orders
}

// With is the set with so many more records.
func (s Set) With(records int) Set {
	if s.Workload == "W2" {
		records = (records + 1) / 2
	}
	s.Orders += records
	return s
}

// Customers is how many there are.
func (s Set) Customers() int {
	if s.Workload == "W2" {
		return max(s.Orders/ordersPerJoined, 1)
	}
	return pricedCustomers
}

// Expected says whether an output is due for order i.
func (s Set) Expected(i int) bool {
	if s.Workload == "W2" {
		return true
	}
	o := s.Order(i)
	return o.Wanted()
}

// Order returns order i.
func (s Set) Order(i int) Order {
	r := mix(uint64(i))
	more := mix(r)
	return Order{
		ID: "o-" + strconv.Itoa(i), Type: "OrderPlaced", Customer: "c-" + strconv.Itoa(int(r%uint64(s.Customers()))),
		Amount: 1 + int(more>>8%1000), Currency: []string{"EUR", "USD", "GBP", "JPY"}[more%4],
		SKU: "sku-" + strconv.FormatUint(more>>24, 36), Ts: start + int64(i), Channel: "web",
		Address: words(more, 56), Note: words(r, 80),
	}
}

// Payment returns the payment of order i, at its place in the order of payments.
func (s Set) Payment(i, place int) Payment {
	o := s.Order(i)
	return Payment{
		ID: "p-" + strconv.Itoa(i), Type: "PaymentCaptured", Order: o.ID, Customer: o.Customer, Amount: o.Amount,
		Ts: start + int64(place), Method: "card-visa",
	}
}

// Paid returns the numbers of the orders in the order of their payments. Each payment moves back by 0 to 39,000 records; as
// all do, by 19,500 in the mean, it is then up to 19,500 records before or behind its order, and a little more by chance.
func (s Set) Paid() []int {
	type moved struct{ order, to int }
	all := make([]moved, s.Orders)
	for i := range all {
		all[i] = moved{i, i + int(mix(^uint64(i))%(shift+1))}
	}
	slices.SortStableFunc(all, func(a, b moved) int { return cmp.Compare(a.to, b.to) })
	paid := make([]int, s.Orders)
	for place, m := range all {
		paid[place] = m.order
	}
	return paid
}

// AppendJSON writes an order as encoding/json does, but fast: at high rates the making of the input would be what is
// measured.
func (o *Order) AppendJSON(b []byte) []byte {
	b = append(append(b, `{"id":"`...), o.ID...)
	b = append(append(b, `","type":"`...), o.Type...)
	b = append(append(b, `","customer":"`...), o.Customer...)
	b = strconv.AppendInt(append(b, `","amount":`...), int64(o.Amount), 10)
	b = append(append(b, `,"currency":"`...), o.Currency...)
	b = append(append(b, `","sku":"`...), o.SKU...)
	b = strconv.AppendInt(append(b, `","ts":`...), o.Ts, 10)
	b = append(append(b, `,"channel":"`...), o.Channel...)
	b = append(append(b, `","address":"`...), o.Address...)
	b = append(append(b, `","note":"`...), o.Note...)
	return append(b, `"}`...)
}

// AppendJSON writes a payment as encoding/json does.
func (p *Payment) AppendJSON(b []byte) []byte {
	b = append(append(b, `{"id":"`...), p.ID...)
	b = append(append(b, `","type":"`...), p.Type...)
	b = append(append(b, `","order":"`...), p.Order...)
	b = append(append(b, `","customer":"`...), p.Customer...)
	b = strconv.AppendInt(append(b, `","amount":`...), int64(p.Amount), 10)
	b = strconv.AppendInt(append(b, `,"ts":`...), p.Ts, 10)
	b = append(append(b, `,"method":"`...), p.Method...)
	return append(b, `"}`...)
}

// mix is splitmix64's: numbers that look random, and are the same on every machine and in every version.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// words are n letters of text that compresses about as text does.
func words(seed uint64, n int) string {
	const some = "amber bridge candle dune ember falcon garnet hollow island juniper kettle lagoon "
	b := make([]byte, 0, n+8)
	for len(b) < n {
		seed = mix(seed)
		at := seed % uint64(len(some)-8)
		b = append(b, some[at:at+8]...)
	}
	return string(b[:n])
}
