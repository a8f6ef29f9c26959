package harness

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/benchmarks/peers/internal/orders"
)

// A topic of outputs is read to its end, and what is not there or not right in it is found.
func TestCheckReadsTheTopic(t *testing.T) {
	b, set := fakeBroker(t), orders.Set{Workload: "W2", Orders: 300}
	write := func(topic string, change func(i int, c *orders.Confirmed) bool) *orders.Tally {
		must(t, b.create(t.Context(), topic))
		for i := range set.Orders {
			o, p := set.Order(i), set.Payment(i, 0)
			c := orders.Confirm(o.ID, p.ID, o.Customer, o.Amount)
			if !change(i, &c) {
				continue
			}
			value, err := json.Marshal(c)
			must(t, err)
			must(t, b.client.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Key: []byte(o.Customer), Value: value}).FirstErr())
		}
		tally := orders.NewTally(set)
		must(t, b.check(t.Context(), topic, tally))
		return tally
	}
	if err := write("right", func(int, *orders.Confirmed) bool { return true }).Err(); err != nil {
		t.Errorf("outputs that are right: %v", err)
	}
	if tally := write("dropped", func(i int, _ *orders.Confirmed) bool { return i != 299 }); tally.Missing() != 1 || tally.Err() == nil {
		t.Errorf("an output was dropped: %d missing, %v", tally.Missing(), tally.Err())
	}
	altered := func(i int, c *orders.Confirmed) bool {
		if i == 150 {
			c.Amount++
		}
		return true
	}
	if tally := write("altered", altered); tally.Wrong != 1 || tally.Err() == nil {
		t.Errorf("an output was altered: %d wrong, %v", tally.Wrong, tally.Err())
	}
}

// Topics that are full are left alone, ones that are not are made anew.
func TestPreload(t *testing.T) {
	b, set := fakeBroker(t), orders.Set{Workload: "W2", Orders: 500}
	ordered, paid := inputs(set)
	must(t, b.create(t.Context(), ordered, paid))
	for _, topic := range []string{ordered, paid} {
		must(t, b.client.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte("half done")}).FirstErr())
	}
	for range 2 {
		must(t, b.preload(t.Context(), set))
		for _, topic := range []string{ordered, paid} {
			if n, err := b.readable(t.Context(), topic); err != nil || n != 500 {
				t.Fatalf("%s has %d records, %v", topic, n, err)
			}
		}
	}
}

func TestSystemThatEndsIsAFault(t *testing.T) {
	tr := trialOf(t, time.Minute)
	p := started(t, `echo CONSUMING; exit 3`)
	_, _, fault, err := tr.drained(t.Context(), p)
	if err != nil || fault == nil || !strings.Contains(fault.Error(), "exit status 3") {
		t.Errorf("fault %v, error %v", fault, err)
	}
}

func TestSystemThatHangsIsAFault(t *testing.T) {
	tr := trialOf(t, 100*time.Millisecond)
	p := started(t, `echo CONSUMING; exec sleep 300`)
	must(t, p.consuming(t.Context()))
	_, _, fault, err := tr.drained(t.Context(), p)
	if err != nil || fault == nil || !strings.Contains(fault.Error(), "no output for 100ms; 0 of 10 are there") {
		t.Errorf("fault %v, error %v", fault, err)
	}
}

func trialOf(t *testing.T, patience time.Duration) *trial {
	b, set := fakeBroker(t), orders.Set{Workload: "W2", Orders: 10}
	must(t, b.create(t.Context(), "out"))
	c := &comparison{Config: Config{Patience: patience}, broker: b}
	return &trial{comparison: c, set: set, out: "out", tally: orders.NewTally(set)}
}

func started(t *testing.T, script string) *process {
	t.Helper()
	p, err := start([]string{"sh", "-c", script}, nil, filepath.Join(t.TempDir(), "log"), 0)
	must(t, err)
	t.Cleanup(p.stop)
	return p
}
