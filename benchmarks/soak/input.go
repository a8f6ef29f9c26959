package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/framework"
)

var firstTime = time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)

const orderEvery = 5 * time.Second // of event time

// input is all that is fed, and what has to come of it. It is a function of the settings.
type input struct {
	chunks []chunk
	orders map[string]*order
	// payments of the orders that are kept; "" where none is within the window.
	payments map[string]string
	// customers have the orders that are kept, in the order in which they are fed.
	customers map[string][]string
	pairs     map[pair]bool
}

// chunk is what is fed together.
type chunk struct{ orders, payments []framework.Record }

// fedAt is a record and when it comes, in event time; records come out of order.
type fedAt struct {
	at     time.Time
	record framework.Record
}

func newInput(s *settings) *input {
	in := &input{orders: map[string]*order{}, payments: map[string]string{}, customers: map[string][]string{}, pairs: map[pair]bool{}}
	r := rand.New(rand.NewPCG(s.Seed, 2))
	var orders, payments []fedAt
	for i := range s.Orders {
		at := s.rounded(firstTime.Add(time.Duration(i) * orderEvery))
		o := drawOrder(s, r, i, at)
		in.orders[o.ID] = o
		orders = append(orders, fedAt{at.Add(jitter(r)), recordOf(o.ID, o.Customer, o.Time, o)})
		paid := ""
		if r.IntN(10) < 7 && o.Kind != lateKind {
			p := &payment{ID: "p" + o.ID[1:], Order: o.ID, Customer: o.Customer, Time: s.rounded(o.Time.Add(time.Duration(r.IntN(630)-30) * time.Second))}
			if after := p.Time.Sub(o.Time); after >= -joinBefore && after <= joinAfter {
				paid = p.ID
			}
			payments = append(payments, fedAt{p.Time.Add(jitter(r)), recordOf(p.ID, p.Customer, p.Time, p)})
		}
		if o.kept() {
			in.payments[o.ID] = paid
		}
	}
	byTime := func(a, b fedAt) int { return a.at.Compare(b.at) }
	slices.SortStableFunc(orders, byTime)
	slices.SortStableFunc(payments, byTime)
	for _, o := range orders {
		if in.orders[o.record.ID].kept() {
			in.customers[o.record.Key] = append(in.customers[o.record.Key], o.record.ID)
		}
	}
	in.findPairs()
	in.cut(s, r, orders, payments)
	return in
}

func jitter(r *rand.Rand) time.Duration { return time.Duration(r.IntN(20)) * time.Second }

func (s *settings) rounded(t time.Time) time.Time {
	return t.Truncate(time.Duration(s.Quantum) * time.Second)
}

func drawOrder(s *settings, r *rand.Rand, i int, at time.Time) *order {
	o := &order{ID: fmt.Sprintf("o%05d", i), Customer: fmt.Sprint("c", r.IntN(s.Customers)), Amount: 1 + r.IntN(9999), Time: at}
	switch x := r.IntN(1000); {
	case x < s.Poison:
		o.Kind = lookupKind
	case x < 2*s.Poison:
		o.Kind = checkKind
	case x < 3*s.Poison && s.parks():
		o.Kind = behindKind
	case x < 4*s.Poison && s.parks() && s.Hold == 0:
		o.Kind = windowKind
	case x < 4*s.Poison+5 && i > 50:
		o.Kind, o.Time = lateKind, firstTime.Add(-6*time.Hour)
	}
	if s.Pad > 0 && r.IntN(3) == 0 {
		o.Pad = strings.Repeat(fmt.Sprint(r.Uint64()), 1+r.IntN(s.Pad/20))
	}
	return o
}

func recordOf(id, key string, at time.Time, v any) framework.Record {
	value, err := json.Marshal(v)
	if err != nil { // strings, numbers and times always encode
		panic(err)
	}
	return framework.Record{ID: id, Key: key, Time: at, Value: value, Type: "soak"}
}

func (in *input) findPairs() {
	for _, all := range in.customers {
		for i, a := range all {
			for _, b := range all[i+1:] {
				x, y := in.orders[a], in.orders[b]
				if x.Kind != lateKind && y.Kind != lateKind && x.Time.Sub(y.Time).Abs() <= pairWithin {
					in.pairs[pairOf(a, b)] = true
				}
			}
		}
	}
}

// cut makes chunks of the records; payments go five minutes ahead of the orders, or stay so far behind.
func (in *input) cut(s *settings, r *rand.Rand, orders, payments []fedAt) {
	for len(orders) > 0 {
		n := min(len(orders), 1+r.IntN(s.Chunk))
		until := orders[n-1].at.Add(time.Duration(r.IntN(600)-300) * time.Second)
		m := 0
		for m < len(payments) && (n == len(orders) || payments[m].at.Before(until)) {
			m++
		}
		in.chunks = append(in.chunks, chunk{records(orders[:n]), records(payments[:m])})
		orders, payments = orders[n:], payments[m:]
	}
	in.chunks = append(in.chunks, closers(s))
}

func records(all []fedAt) (records []framework.Record) {
	for _, one := range all {
		records = append(records, one.record)
	}
	return records
}

// closers are one event for each partition of each source, so late that all that waits for event time ends.
func closers(s *settings) (c chunk) {
	at := firstTime.Add(time.Duration(s.Orders)*orderEvery + 5*time.Hour)
	for p := range s.Partitions {
		key, k := "", 0
		for ; key == "" || framework.Partition(key, s.Partitions) != p; k++ {
			key = fmt.Sprint("closer", k)
		}
		o := order{ID: fmt.Sprint("closer-o", p), Customer: key, Time: at, Kind: closerKind, Amount: 1}
		y := payment{ID: fmt.Sprint("closer-p", p), Customer: key, Time: at, Kind: closerKind}
		c.orders = append(c.orders, recordOf(o.ID, key, at, o))
		c.payments = append(c.payments, recordOf(y.ID, key, at, y))
	}
	return c
}
