package flights

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/embedded"
)

// Summary counts what a run did. Flights are the rows read; the same flight in two rows counts once in the rest.
type Summary struct {
	Flights          int64 `json:"flights"`
	Departed         int64 `json:"departed"`
	WeatherMatched   int64 `json:"weather_matched"`
	WeatherUnmatched int64 `json:"weather_unmatched"`
	PlaneKnown       int64 `json:"plane_known"`
	KnockOn          int64 `json:"knock_on"`
}

// result is what a run has made.
type result struct {
	Summary
	pairs  [][]byte // KnockOn as JSON
	faults []framework.Fault
}

// countUp reads the counts that the engine keeps with its commits.
func countUp(r *framework.Runner, pipeline string) Summary {
	node := func(name string) framework.Counts { return r.Counts(pipeline, name) }
	matched, unmatched := node("weather-match.matched").Out, node("weather-match.otherwise").Out
	return Summary{
		Flights:          node(FlightsTopic).In,
		Departed:         matched + unmatched,
		WeatherMatched:   matched,
		WeatherUnmatched: unmatched,
		PlaneKnown:       node("plane-match.known").Out,
		KnockOn:          node("knock-on").Out,
	}
}

// readPairs reads the result back from its topic.
func readPairs(ctx context.Context, topics *embedded.Transport, topic string) (pairs [][]byte, err error) {
	_, err = topics.Read(ctx, topic, 0, 0, func(r framework.Record) error {
		pairs = append(pairs, r.Value)
		return nil
	})
	return pairs, err
}

func readFaults(ctx context.Context, topics *embedded.Transport, topic string) (faults []framework.Fault, err error) {
	_, err = topics.Read(ctx, topic, 0, 0, func(r framework.Record) error {
		var f framework.Fault
		if err := json.Unmarshal(r.Value, &f); err != nil {
			return err
		}
		faults = append(faults, f)
		return nil
	})
	return faults, err
}

const shownFaults = 10

// report prints the worst knock-on delays, what could not be processed, and the summary.
func report(out io.Writer, r result, asJSON bool) error {
	w := bufio.NewWriter(out)
	if err := printWorst(w, r.pairs); err != nil {
		return err
	}
	if n := len(r.faults); n > 0 {
		fmt.Fprintf(w, "%s could not be processed:\n", rows(n))
		for _, f := range r.faults[:min(shownFaults, n)] {
			fmt.Fprintf(w, "  %s  step %s: %s\n", f.Place, f.Step, f.Error)
		}
		if n > shownFaults {
			fmt.Fprintf(w, "  … and %s more\n", thousands(int64(n-shownFaults)))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "%s flights, %s departed, weather known for %s of them and the plane of %s: %s knock-on delays\n",
		thousands(r.Flights), thousands(r.Departed), thousands(r.WeatherMatched), thousands(r.PlaneKnown), thousands(r.KnockOn))
	if asJSON {
		line, err := json.Marshal(r.Summary)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\n", line)
	}
	return w.Flush()
}

func rows(n int) string {
	if n == 1 {
		return "1 row"
	}
	return thousands(int64(n)) + " rows"
}

// thousands writes a count with separators: 27,004.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
