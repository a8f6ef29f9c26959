package workload

import (
	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
)

// large is the filter of both programs: it keeps half of the orders.
func large(o *Order) bool { return o.Amount%2 == 0 }

func tierOf(o *Order) string {
	if o.Amount > 500 {
		return "gold"
	}
	return "silver"
}

func jsonMillrace(n int, dir string) (Result, error) {
	p := framework.NewPipeline("json")
	in := framework.From[Order](p, "orders")
	kept := processors.Filter(in, "large", func(e *framework.Event[Order]) bool { return large(&e.Data) })
	priced := processors.Enrich(kept, "priced", processors.Table(rates),
		func(o Order) string { return o.Currency },
		func(o Order, rate float64) Priced { return Priced{Order: o, Rate: rate, Tier: tierOf(&o)} })
	framework.To(priced, "out")
	result, out, err := run(dir, p, map[string][]framework.Record{"orders": orders(n)})
	if err != nil {
		return result, err
	}
	return result, expect("outputs", out["out"], (n+1)/2)
}

// jsonLoop is what anybody would write without a framework: no topics, no positions, nothing that survives.
func jsonLoop(n int, _ string) (Result, error) {
	in, decode, encode := orders(n), framework.JSON[Order](), framework.JSON[Priced]()
	var out [][]byte
	result, err := measure(n, func() error {
		for i := range in {
			var o Order
			if err := decode.Decode(&in[i], &o); err != nil {
				return err
			}
			if !large(&o) {
				continue
			}
			value, err := encode.Append(nil, &Priced{Order: o, Rate: rates[o.Currency], Tier: tierOf(&o)})
			if err != nil {
				return err
			}
			out = append(out, value)
		}
		return nil
	})
	if err != nil {
		return result, err
	}
	return result, expect("outputs", len(out), (n+1)/2)
}
