package orders

import (
	"encoding/json"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

var rates, tiers = Rates(), Tiers()

// output is what a system should write for an order.
func output(t testing.TB, s Set, i int) (key, value []byte) {
	t.Helper()
	o := s.Order(i)
	var v any = Priced{Order: o, Rate: rates[o.Currency], Tier: tiers[o.Customer]}
	if s.Workload == "W2" {
		v = Confirm(o.ID, "p-"+strconv.Itoa(i), o.Customer, o.Amount)
	}
	value, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(o.Customer), value
}

// complete is a tally of all outputs but those left out.
func complete(t testing.TB, s Set, out ...int) *Tally {
	tally := NewTally(s)
	for i := range s.Orders {
		if s.Expected(i) && !slices.Contains(out, i) {
			tally.Add(output(t, s, i))
		}
	}
	return tally
}

var sets = []Set{{"W1", 500}, {"W2", 500}}

func TestTallyOfRightOutputs(t *testing.T) {
	for _, s := range sets {
		tally := complete(t, s)
		if err := tally.Err(); err != nil || tally.Due == 0 || tally.Again > 0 {
			t.Errorf("%s: %v, %d due, %d again", s.Workload, err, tally.Due, tally.Again)
		}
	}
}

func TestTallyMissesAnOutput(t *testing.T) {
	for _, s := range sets {
		i := 0
		for !s.Expected(i) {
			i++
		}
		if tally := complete(t, s, i); tally.Err() == nil || tally.Missing() != 1 {
			t.Errorf("%s: an output is not there and is not missed: %+v", s.Workload, tally.Err())
		}
	}
}

// Whatever byte of an output is another, and whatever key it has, it is wrong.
func TestTallyRefusesAlteredOutputs(t *testing.T) {
	for _, s := range sets {
		rapid.Check(t, func(r *rapid.T) {
			i := rapid.IntRange(0, s.Orders-1).Filter(s.Expected).Draw(r, "order")
			key, value := output(t, s, i)
			if rapid.Bool().Draw(r, "key") {
				key[rapid.IntRange(0, len(key)-1).Draw(r, "at")] ^= byte(rapid.IntRange(1, 255).Draw(r, "bits"))
			} else {
				value[rapid.IntRange(0, len(value)-1).Draw(r, "at")] ^= byte(rapid.IntRange(1, 255).Draw(r, "bits"))
			}
			tally := NewTally(s)
			if _, fresh := tally.Add(key, value); fresh || tally.Wrong != 1 || tally.Err() == nil {
				r.Fatalf("taken for right: key %q, value %s", key, value)
			}
		})
	}
}

func TestTallyRefusesWhatIsNotDue(t *testing.T) {
	s := Set{"W1", 500}
	i := 0
	for s.Expected(i) {
		i++
	}
	tally := complete(t, s)
	tally.Add(output(t, s, i)) // the filter should have held it back
	if tally.Wrong != 1 {
		t.Error("an order that is filtered out is taken for right")
	}
	tally = complete(t, s)
	tally.Add(output(t, Set{"W1", 501}, 500))
	if tally.Wrong != 1 {
		t.Error("an order that was never sent is taken for right")
	}
	for !s.Expected(i) {
		i++
	}
	key, value := output(t, s, i)
	tally = complete(t, s)
	tally.Add(key, append(value[:len(value)-1], `,"more":1}`...))
	if tally.Wrong != 1 {
		t.Error("a field too many is taken for right")
	}
}

// An output that comes again is counted and stays right: at least once is what most systems promise.
func TestTallyCountsRepetitions(t *testing.T) {
	for _, s := range sets {
		tally := complete(t, s)
		i := 0
		for !s.Expected(i) {
			i++
		}
		if _, fresh := tally.Add(output(t, s, i)); fresh || tally.Again != 1 || tally.Err() != nil {
			t.Errorf("%s: %d again, %v", s.Workload, tally.Again, tally.Err())
		}
	}
}

func TestRecordsAreAsDescribed(t *testing.T) {
	s := Set{"W1", 20_000}
	kept, size := 0, 0
	for i := range s.Orders {
		o := s.Order(i)
		want, _ := json.Marshal(o)
		got := o.AppendJSON(nil)
		if string(got) != string(want) {
			t.Fatalf("order %d is %s, encoding/json has %s", i, got, want)
		}
		size += len(got)
		if s.Expected(i) {
			kept++
		}
	}
	if mean := size / s.Orders; mean < 270 || mean > 330 {
		t.Errorf("orders have %d bytes, should have about 300", mean)
	}
	if part := float64(kept) / float64(s.Orders); part < 0.45 || part > 0.55 {
		t.Errorf("%.2f of the orders are kept, should be about half", part)
	}
}

func TestPaymentsAreAsDescribed(t *testing.T) {
	s := Set{"W2", 100_000}
	paid := s.Paid()
	before, after, most := 0, 0, 0
	seen := make([]bool, s.Orders)
	for place, order := range paid {
		if seen[order] {
			t.Fatalf("order %d is paid twice", order)
		}
		seen[order] = true
		switch {
		case place < order:
			before++
		case place > order:
			after++
		}
		most = max(most, place-order, order-place)
	}
	if before < s.Orders/3 || after < s.Orders/3 || most > 20_000 || most < 19_000 {
		t.Errorf("%d payments before, %d after their order's place, at most %d away", before, after, most)
	}
	if (Set{"W2", 1_000_000}).Customers() != 50_000 {
		t.Error("a million orders are of 50,000 customers")
	}
	p := s.Payment(paid[7], 7)
	want, _ := json.Marshal(p)
	if got := p.AppendJSON(nil); string(got) != string(want) {
		t.Errorf("a payment is %s, encoding/json has %s", got, want)
	}
}
