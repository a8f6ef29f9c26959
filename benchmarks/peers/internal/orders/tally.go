package orders

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
)

// Tally checks outputs as a set: each that is due has come and is right in every field, and nothing else came. One that
// came again is counted, and is right.
type Tally struct {
	set   Set
	seen  []bool
	tiers map[string]string
	rates map[string]float64

	// Due is how many outputs there have to be. Came is how many of them there are, Again how many more times, and
	// Wrong how many outputs are of no order, of one that has none, or differ from what they should be.
	Due, Came, Again, Wrong int
	// Fault is the first that was wrong.
	Fault error
}

// NewTally returns a tally of the outputs of a set.
func NewTally(s Set) *Tally {
	t := &Tally{set: s, seen: make([]bool, s.Orders), tiers: Tiers(), rates: Rates()}
	for i := range s.Orders {
		if s.Expected(i) {
			t.Due++
		}
	}
	return t
}

// Missing is how many outputs have not come.
func (t *Tally) Missing() int { return t.Due - t.Came }

// Err says what is not right, or is nil.
func (t *Tally) Err() error {
	switch {
	case t.Wrong > 0:
		return fmt.Errorf("%d outputs are wrong, the first: %w", t.Wrong, t.Fault)
	case t.Missing() > 0:
		return fmt.Errorf("%d of %d outputs are missing", t.Missing(), t.Due)
	}
	return nil
}

// Add takes an output, and returns the number of its order, and whether it is a right one that had not come before.
func (t *Tally) Add(key, value []byte) (order int, fresh bool) {
	i, err := t.check(string(key), value)
	switch {
	case err != nil:
		t.Wrong++
		if t.Fault == nil {
			t.Fault = fmt.Errorf("%w: key %q, value %s", err, key, value)
		}
		return i, false
	case t.seen[i]:
		t.Again++
		return i, false
	}
	t.seen[i] = true
	t.Came++
	return i, true
}

func (t *Tally) check(key string, value []byte) (int, error) {
	if t.set.Workload == "W2" {
		return t.checkConfirmed(key, value)
	}
	return t.checkPriced(key, value)
}

func (t *Tally) checkPriced(key string, value []byte) (int, error) {
	var got Priced
	if err := strict(value, &got); err != nil {
		return 0, err
	}
	i, err := t.number(got.ID)
	if err != nil {
		return 0, err
	}
	o := t.set.Order(i)
	want := Priced{Order: o, Rate: t.rates[o.Currency], Tier: t.tiers[o.Customer]}
	switch {
	case !o.Wanted():
		return i, fmt.Errorf("order %d is not to pass the filter", i)
	case got != want || key != o.Customer:
		return i, fmt.Errorf("order %d should be of key %q, %+v", i, o.Customer, want)
	}
	return i, nil
}

func (t *Tally) checkConfirmed(key string, value []byte) (int, error) {
	var got Confirmed
	if err := strict(value, &got); err != nil {
		return 0, err
	}
	i, err := t.number(got.Order)
	if err != nil {
		return 0, err
	}
	o := t.set.Order(i)
	if want := Confirm(o.ID, "p-"+strconv.Itoa(i), o.Customer, o.Amount); got != want || key != o.Customer {
		return i, fmt.Errorf("order %d should be of key %q, %+v", i, o.Customer, want)
	}
	return i, nil
}

// number is the number of the order with an id.
func (t *Tally) number(id string) (int, error) {
	digits, ok := strings.CutPrefix(id, "o-")
	i, err := strconv.Atoi(digits)
	if !ok || err != nil || i < 0 || i >= t.set.Orders {
		return 0, fmt.Errorf("there is no order %q", id)
	}
	return i, nil
}

// strict decodes what has exactly the fields of v, each once.
func strict(value []byte, v any) error {
	return json.Unmarshal(value, v, json.RejectUnknownMembers(true))
}
