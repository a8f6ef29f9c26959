package harness

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/benchmarks/peers/internal/orders"
)

// feed sends the records of a set, which have numbers: in W2 the even ones are orders, the odd ones payments.
type feed struct {
	client        *kgo.Client
	set           orders.Set
	ordered, paid string // topics
	payments      []int  // orders in the order of their payments
	fault         atomic.Pointer[error]

	written []int64 // when each was acknowledged, in nanoseconds since 1970; nil where nobody asks
}

func newFeed(b *broker, s orders.Set, ordered, paid string) *feed {
	f := &feed{client: b.client, set: s, ordered: ordered, paid: paid}
	if s.Workload == "W2" {
		f.payments = s.Paid()
	}
	return f
}

// send sends record i, without waiting.
func (f *feed) send(ctx context.Context, i int) {
	var r kgo.Record
	number := i
	if f.payments != nil && i%2 == 1 {
		p := f.set.Payment(f.payments[i/2], i/2)
		r = kgo.Record{Topic: f.paid, Key: []byte(p.Customer), Value: p.AppendJSON(make([]byte, 0, 160))}
	} else {
		if f.payments != nil {
			i /= 2
		}
		o := f.set.Order(i)
		r = kgo.Record{Topic: f.ordered, Key: []byte(o.Customer), Value: o.AppendJSON(make([]byte, 0, 320))}
	}
	f.client.Produce(ctx, &r, func(_ *kgo.Record, err error) {
		if err != nil {
			f.fault.CompareAndSwap(nil, &err)
		}
		if f.written != nil {
			f.written[number] = time.Now().UnixNano()
		}
	})
}

// flush returns when all that was sent is written.
func (f *feed) flush(ctx context.Context) error {
	if err := f.client.Flush(ctx); err != nil {
		return err
	}
	if err := f.fault.Load(); err != nil {
		return *err
	}
	return nil
}

// pace is a rate that began at some time with some record.
type pace struct {
	began time.Time
	first int
	rate  float64 // records a second
}

// due is when record i is to be sent.
func (p pace) due(i int) time.Time {
	return p.began.Add(time.Duration(float64(i-p.first) / p.rate * float64(time.Second)))
}

// follow sends the records from the pace's first to n, each when it is due, to a millisecond.
func (f *feed) follow(ctx context.Context, p pace, n int) error {
	for i := p.first; i < n; {
		for ; i < n && !p.due(i).After(time.Now()); i++ {
			f.send(ctx, i)
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return f.flush(ctx)
}

// causes returns for each order the number of the last record that its output needs.
func (f *feed) causes() []int {
	causes := make([]int, f.set.Orders)
	for i := range causes {
		causes[i] = i
		if f.payments != nil {
			causes[i] = 2 * i
		}
	}
	for place, order := range f.payments {
		causes[order] = max(causes[order], 2*place+1)
	}
	return causes
}
