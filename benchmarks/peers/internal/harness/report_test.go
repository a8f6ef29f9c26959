package harness

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/benchmarks/peers/internal/orders"
)

// some are three rounds of two systems, of which one result does not count.
func some() []Result {
	var results []Result
	for i := range 3 {
		seconds := float64(i + 1)
		results = append(results,
			Result{Machine: "a machine", Mode: Throughput, Workload: "W1", System: "franz", Orders: 100, Inputs: 100, Seconds: 4 * seconds, CPU: seconds, Due: 50},
			Result{Machine: "a machine", Mode: Throughput, Workload: "W1", System: "millrace", Orders: 600, Inputs: 600, Seconds: seconds, CPU: 0.006 * seconds, Due: 300},
			Result{Machine: "a machine", Mode: Latency, Workload: "W1", System: "millrace", Orders: 600, Inputs: 600, Rate: 50, P50: 0.001 * seconds, P99: 0.1, InputP50: 0.0005, Due: 300})
	}
	bad := results[1]
	bad.Seconds, bad.Missing, bad.Fault = 0.001, 7, "7 of 300 outputs are missing"
	lost := Result{Machine: "a machine", Mode: Kill, Workload: "W2", System: "goka", Orders: 100, Inputs: 200, Empty: true, Due: 100, Missing: 7, Fault: "7 missing"}
	return append(results, bad, lost)
}

func TestReportHasMediansOfWhatCounts(t *testing.T) {
	var out strings.Builder
	Report(&out, some())
	for _, line := range []string{
		"| millrace | 600 | 3 of 4 | 0.30 [0.20..0.60] | 20 [10..30] | – | – | – | – | 0 |", // the broker was not measured
		"| franz | 100 | 3 of 3 | 0.01 [0.01..0.03] | 20000 [10000..30000] |",
		"| millrace | 3 of 3 | 50 | 2 [1..3] | 100 | 0.50 | – | – | – | – |",
		"| goka | lost | 200 | 0 of 1 | – | – | 0 | 7 |",
	} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("the report has no %s:\n%s", line, out.String())
		}
	}
	if strings.Index(out.String(), "| millrace") > strings.Index(out.String(), "| franz") {
		t.Error("Millrace is not the first")
	}
}

// What was measured at one rate for all stands beside what was measured at the same, and not at another.
func TestRatesAreApart(t *testing.T) {
	var results []Result
	for i := range 3 {
		for _, rate := range []float64{6000, 1000} {
			results = append(results, Result{Mode: Equal, Workload: "W2", System: "franz", Orders: 100 + i, Rate: rate, P50: rate / 1e6, P99: 1, Due: 1,
				Seconds: 10, CPU: rate / 1000})
		}
	}
	var out strings.Builder
	Report(&out, results)
	slow := "| franz | 3 of 3 | 1000 | 1 | 1000 | – | – | 10 | – | – |\n"
	if fast := "| franz | 3 of 3 | 6000 | 6 | 1000 | – | – | 60 | – | – |\n"; !strings.Contains(out.String(), slow+fast) {
		t.Errorf("the report has no\n%s%s\n%s", slow, fast, out.String())
	}
}

func TestPlotIsSVG(t *testing.T) {
	var out strings.Builder
	Plot(&out, some())
	circles := 0
	for decoder := xml.NewDecoder(strings.NewReader(out.String())); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if element, ok := token.(xml.StartElement); ok && element.Name.Local == "circle" {
			circles++
		}
	}
	if circles != 5 { // rate and processor time of two systems, latency of one
		t.Errorf("%d points, should be 5:\n%s", circles, out.String())
	}
	if strings.Contains(out.String(), "NaN") || strings.Contains(out.String(), "Inf") {
		t.Error("a place is no number")
	}
}

func TestPageKeepsWhatIsAroundTheTables(t *testing.T) {
	name := filepath.Join(t.TempDir(), "RESULTS.md")
	must(t, os.WriteFile(name, []byte("before\n"+tablesBegin+"\nold\n"+tablesEnd+"\nafter\n"), 0o600))
	for range 2 {
		must(t, WritePage(name, some()))
	}
	page, err := os.ReadFile(name)
	must(t, err)
	text := string(page)
	if !strings.HasPrefix(text, "before\n") || !strings.HasSuffix(text, "\nafter\n") || strings.Contains(text, "old") ||
		strings.Count(text, "### W1, throughput") != 1 {
		t.Errorf("the page is\n%s", text)
	}
	if _, err := os.Stat(strings.TrimSuffix(name, ".md") + ".svg"); err != nil {
		t.Error(err)
	}
	must(t, os.WriteFile(name, []byte("no marks"), 0o600))
	if WritePage(name, some()) == nil {
		t.Error("a page without marks is taken")
	}
}

func TestResultsAreAddedToTheFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "results.jsonl")
	for _, r := range some() {
		must(t, add(name, r))
	}
	results, err := Read(name)
	must(t, err)
	if len(results) != len(some()) || results[0] != some()[0] {
		t.Errorf("%d results, the first is %+v", len(results), results[0])
	}
}

func TestLatencyIsFromWhenTheLastCauseWasDue(t *testing.T) {
	set := orders.Set{Workload: "W2", Orders: 400}
	f := newFeed(&broker{}, set, "orders", "payments")
	causes := f.causes()
	for place, order := range f.payments {
		if causes[order] != max(2*order, 2*place+1) {
			t.Fatalf("order %d is at %d, its payment at %d, the last is said to be %d", order, 2*order, 2*place+1, causes[order])
		}
	}
	tr := &trial{comparison: &comparison{Config: Config{WarmUp: time.Second}}, set: set, tally: orders.NewTally(set)}
	p := pace{time.Now(), first, 100}
	var arrivals []arrival
	for i := range set.Orders {
		o := set.Order(i)
		c := orders.Confirm(o.ID, set.Payment(i, 0).ID, o.Customer, o.Amount)
		took := 10 * time.Millisecond
		if p.due(causes[i]).Before(p.began.Add(time.Second)) {
			took = time.Hour // while it warms up
		}
		arrivals = append(arrivals, arrival{[]byte(o.Customer), marshalled(t, c), p.due(causes[i]).Add(took)})
	}
	if p50, p99 := tr.percentiles(arrivals, causes, p); p50 != 0.01 || p99 != 0.01 {
		t.Errorf("p50 %v, p99 %v", p50, p99)
	}
}

func TestInputsAreLateByWhenTheirTopicsHaveThem(t *testing.T) {
	p := pace{time.Now(), first, 100}
	f := &feed{written: make([]int64, first+300)}
	for i := range f.written {
		took := 10 * time.Millisecond
		switch {
		case i < first+110:
			took = time.Hour // while it warms up
		case i > first+200:
			took = 30 * time.Millisecond
		}
		f.written[i] = p.due(i).Add(took).UnixNano()
	}
	round := func(seconds float64) time.Duration { return time.Duration(seconds * 1e9).Round(time.Millisecond) }
	if p50, p99 := f.percentiles(p, p.due(first+110)); round(p50) != 30*time.Millisecond || round(p99) != 30*time.Millisecond {
		t.Errorf("p50 %v s, p99 %v s", p50, p99)
	}
	if p50, p99 := f.percentiles(p, p.due(first+90)); round(p50) != 30*time.Millisecond || round(p99) != time.Hour {
		t.Errorf("from early on: p50 %v s, p99 %v s", p50, p99)
	}
}

func marshalled(t *testing.T, v any) []byte {
	value, err := json.Marshal(v)
	must(t, err)
	return value
}

func TestCaughtUp(t *testing.T) {
	began := time.Now()
	at := func(seconds float64) time.Time { return began.Add(time.Duration(seconds * float64(time.Second))) }
	p := pace{began, 0, 1} // record i is due at i
	arrived := []time.Time{at(0.1), at(5), at(7), at(6), at(9)}
	// The first output after the kill comes at 3.5; by then records 0 to 3 were due, and the last of their outputs came at 7.
	if got := caughtUp(arrived, []int{0, 1, 2, 3, 4}, p, at(3.5)); !got.Equal(at(7)) {
		t.Errorf("caught up at %v", got.Sub(began))
	}
}
