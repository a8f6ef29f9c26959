package flights

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/embedded"
)

// Summary counts what a run did.
type Summary struct {
	Flights          int64 `json:"flights"`
	Departed         int64 `json:"departed"`
	WeatherMatched   int64 `json:"weather_matched"`
	WeatherUnmatched int64 `json:"weather_unmatched"`
	PlaneKnown       int64 `json:"plane_known"`
	KnockOn          int64 `json:"knock_on"`
}

// countUp reads the counts that the engine keeps with its commits.
func countUp(r *framework.Runner) Summary {
	node := func(name string) framework.Counts { return r.Counts("flights", name) }
	return Summary{
		Flights:          node(FlightsTopic).In,
		Departed:         node("departed").Out,
		WeatherMatched:   node("weather-match.matched").Out,
		WeatherUnmatched: node("weather-match.otherwise").Out,
		PlaneKnown:       node("plane-match.known").Out,
		KnockOn:          node("knock-on").Out,
	}
}

// readPairs reads the result back from its topic.
func readPairs(ctx context.Context, topics *embedded.Transport) (pairs [][]byte, err error) {
	_, err = topics.Read(ctx, KnockOnTopic, 0, 0, func(r framework.Record) error {
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

// completeFile makes sure that the file holds the whole result: it does not when the run, or part of it, happened
// without --out, or when the file was removed since.
func completeFile(path string, pairs [][]byte) error {
	content, err := os.ReadFile(path)
	if err == nil && bytes.Count(content, []byte("\n")) == len(pairs) {
		return nil
	}
	whole := append(bytes.Join(pairs, []byte("\n")), '\n')
	if len(pairs) == 0 {
		whole = nil
	}
	next := path + ".new"
	if err := os.WriteFile(next, whole, 0o644); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	return nil
}

const worst = 10

// report prints the worst knock-on delays and the summary.
func report(out io.Writer, o options, s Summary, pairs [][]byte, faults []framework.Fault, took time.Duration) error {
	w := bufio.NewWriter(out)
	var all []KnockOn
	for _, raw := range pairs {
		var k KnockOn
		if err := json.Unmarshal(raw, &k); err != nil {
			return err
		}
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b KnockOn) int {
		return cmp.Or(cmp.Compare(b.First.Delay+b.Second.Delay, a.First.Delay+a.Second.Delay), cmp.Compare(a.ID, b.ID))
	})
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PLANE\tMODEL\tAIRLINE\tFIRST FLIGHT\tLATE\tNEXT FLIGHT\tLATE\tWEATHER THEN")
	for _, k := range all[:min(worst, len(all))] {
		model := "?"
		if k.Model != nil {
			model = *k.Model
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.Tail, model, k.Airline,
			k.First, late(k.First.Delay), k.Second, late(k.Second.Delay), k.Second.Weather)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if n := len(faults); n > 0 {
		fmt.Fprintf(w, "\n%d rows could not be processed; they are in the dead-letter topic. The first:\n", n)
		for _, f := range faults[:min(5, n)] {
			fmt.Fprintf(w, "  %s  step %s: %s\n", f.Place, f.Step, f.Error)
		}
	}
	fmt.Fprintf(w, "\n%d flights, %d departed, weather known for %d of them and the plane of %d: %d knock-on delays, in %.1f s\n",
		s.Flights, s.Departed, s.WeatherMatched, s.PlaneKnown, s.KnockOn, took.Seconds())
	if o.summary == "json" {
		line, err := json.Marshal(s)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\n", line)
	}
	return w.Flush()
}

// String is a leg as the table shows it.
func (l Leg) String() string {
	return fmt.Sprintf("%s %s %s→%s", l.Scheduled.At.Format("Jan _2 15:04"), l.Carrier+l.Number, l.Origin, l.Dest)
}

func late(minutes int) string { return fmt.Sprintf("%d:%02d", minutes/60, minutes%60) }

// String is the weather as the table shows it.
func (w *Weather) String() string {
	if w == nil {
		return "not observed"
	}
	s := ""
	add := func(v *float64, format string) {
		if v != nil {
			if s != "" {
				s += ", "
			}
			s += fmt.Sprintf(format, *v)
		}
	}
	add(w.Temp, "%.0f °F")
	add(w.Wind, "wind %.0f mph")
	if w.Precip != nil && *w.Precip > 0 {
		add(w.Precip, "%.2f in")
	}
	if w.Visible != nil && *w.Visible < 10 {
		add(w.Visible, "sight %.0f mi")
	}
	return s
}
