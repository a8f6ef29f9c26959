package framework_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
)

// narrow is a sink that tells before a commit what it takes.
type narrow struct {
	framework.TestSink
	most int // bytes of a value
}

func (n *narrow) RecordCheck(context.Context, string) func(*framework.Record) error {
	return func(r *framework.Record) error {
		if len(r.Value) > n.most {
			return fmt.Errorf("%d bytes: %w", len(r.Value), framework.ErrTooLarge)
		}
		return nil
	}
}

// An event that would send more than a sink takes is a fault, with nothing of what it did before: neither its state nor
// what it has sent elsewhere. The run goes on, and when the sink takes more, the event can be run again.
func TestOutputThatIsTooLarge(t *testing.T) {
	b := newBench(t, 0)
	for n := 1; n <= 5; n++ {
		pad := ""
		if n == 3 {
			pad = strings.Repeat("x", 1000)
		}
		b.feed.Push("in", 0, framework.Record{
			ID: fmt.Sprint(n), Key: "k", Time: noon.Add(time.Duration(n) * time.Second), Value: fmt.Appendf(nil, `{"n":%d,"pad":%q}`, n, pad),
		})
	}
	b.feed.Bounded = true
	p := framework.NewPipeline("p")
	in := framework.From[thing](p, "in")
	sums := processors.Fold(in, "sum", 0, func(sum int, e *framework.Event[thing]) (int, error) { return sum + e.Data.N, nil })
	framework.To(sums, "sums")
	framework.To(in, "out") // as it came
	out, sent := &narrow{most: 500}, &framework.TestSink{}
	b.config.Routes["out"], b.config.Routes["sums"] = out, sent
	if err := soon(t, run(t.Context(), t, b.runner(t, p))); err != nil {
		t.Fatal(err)
	}
	check := func(wantIDs []string, wantSums string) {
		t.Helper()
		if got := ids(out.Records()); !slices.Equal(got, wantIDs) {
			t.Errorf("sent: %q, want %q", got, wantIDs)
		}
		var got []string
		for _, r := range sent.Records() {
			got = append(got, string(r.Value))
		}
		if strings.Join(got, " ") != wantSums {
			t.Errorf("sums: %v, want %s", got, wantSums)
		}
	}
	check([]string{"1", "2", "4", "5"}, "1 3 7 12")
	letters := readTopic(t, topicsIn(t, b.store), p.DeadLetters())
	if len(letters) != 1 {
		t.Fatalf("%d dead letters", len(letters))
	}
	var f framework.Fault
	if err := json.Unmarshal(letters[0].Value, &f); err != nil {
		t.Fatal(err)
	}
	if f.Step != "out" || f.Class != framework.ClassPermanent || f.Event.ID != "3" || !strings.Contains(f.Error, framework.ErrTooLarge.Error()) {
		t.Errorf("the dead letter: %+v", f)
	}

	out.most = 2000
	b.config.Routes["in"] = b.feed
	runner := b.runner(t, p)
	if err := runner.Resubmit(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if err := soon(t, run(t.Context(), t, runner)); err != nil {
		t.Fatal(err)
	}
	check([]string{"1", "2", "4", "5", "3"}, "1 3 7 12 15")
}

// A part of a split fails by itself, whether or not the sink tells beforehand what it takes.
func TestPartThatIsTooLarge(t *testing.T) {
	for _, tells := range []bool{true, false} {
		b := newBench(t, 1)
		b.feed.Bounded = true
		p := framework.NewPipeline("p")
		parts := processors.Split(framework.From[thing](p, "in"), "split", func(*framework.Event[thing]) ([]string, error) {
			return []string{"a", strings.Repeat("b", 1000), "c"}, nil
		})
		framework.To(parts, "out")
		out := &narrow{most: 500}
		b.config.Routes["out"] = out
		if !tells {
			out.Limit = 500
			b.config.Routes["out"] = &out.TestSink
		}
		if err := soon(t, run(t.Context(), t, b.runner(t, p))); err != nil {
			t.Errorf("the sink tells what it takes: %v; the run ends with %v", tells, err)
		}
		if got := len(out.Records()); got != 2 {
			t.Errorf("the sink tells what it takes: %v; %d parts were sent, want 2", tells, got)
		}
		letters := lettersOf(t, readTopic(t, topicsIn(t, b.store), p.DeadLetters()))
		if len(letters) != 1 || letters[0].Refused == tells {
			t.Errorf("the sink tells what it takes: %v; dead letters: %+v", tells, letters)
		}
	}
}
