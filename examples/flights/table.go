package flights

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

const worst = 10

// printWorst prints the knock-on delays with the most minutes in both flights together.
func printWorst(out io.Writer, pairs [][]byte) error {
	var all []KnockOn
	for _, raw := range pairs {
		var k KnockOn
		if err := json.Unmarshal(raw, &k); err != nil {
			return err
		}
		all = append(all, k)
	}
	if len(all) == 0 {
		return nil
	}
	slices.SortFunc(all, func(a, b KnockOn) int {
		return cmp.Or(cmp.Compare(b.First.Delay+b.Second.Delay, a.First.Delay+a.Second.Delay), cmp.Compare(a.ID, b.ID))
	})
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "The worst knock-on delays: a plane leaves %d minutes late or more, and within %.0f hours %d or more again\n\n",
		firstLate, window.Hours(), nextLate)
	fmt.Fprintln(t, "PLANE\tMODEL\tAIRLINE\tFIRST FLIGHT\t LATE\tLATER FLIGHT\t LATE\tWEATHER THEN")
	for _, k := range all[:min(worst, len(all))] {
		model := "not known"
		if k.Model != nil {
			model = *k.Model
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.Tail, model, k.Airline,
			k.First, late(k.First.Delay), k.Second, late(k.Second.Delay), k.Second.Weather)
	}
	fmt.Fprintln(t)
	return t.Flush()
}

// String is a leg as the table shows it.
func (l Leg) String() string {
	return fmt.Sprintf("%s %s %s→%s", l.Scheduled.At.Format("Jan _2 15:04"), l.Carrier+l.Number, l.Origin, l.Dest)
}

// late is a delay in hours and minutes, as wide as any of less than a hundred hours.
func late(minutes int) string { return fmt.Sprintf("%2dh%02d", minutes/60, minutes%60) }

// String is the weather as the table shows it.
func (w *Weather) String() string {
	if w == nil {
		return "not observed"
	}
	var parts []string
	add := func(v *float64, shown bool, format string) {
		if v != nil && shown {
			parts = append(parts, fmt.Sprintf(format, *v))
		}
	}
	add(w.Temp, true, "%.0f °F")
	add(w.Wind, true, "wind %.0f mph")
	add(w.Precip, w.Precip != nil && *w.Precip > 0, "precip %.2f in")
	add(w.Visible, w.Visible != nil && *w.Visible < 10, "sight %.3g mi")
	if len(parts) == 0 {
		return "not measured"
	}
	return strings.Join(parts, ", ")
}
