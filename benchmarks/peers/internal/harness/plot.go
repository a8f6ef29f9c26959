package harness

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"math"
	"slices"
)

// A panel is a set of systems on one logarithmic axis: systems differ by hundreds of times, which bars could not show.
type panel struct {
	title string
	marks []mark
}

type mark struct {
	system string
	spread
	label string
}

const (
	panelWidth, panelGap = 470, 30
	labelWidth           = 120
	rowHeight            = 22
	headHeight           = 58 // title and the axis' numbers
	ourColour, theirs    = "#c2410c", "#475569"
)

// Plot draws the medians of results, with a line from the least to the most, and for latencies from p50 to p99, as SVG.
func Plot(out io.Writer, results []Result) {
	var lines [][]panel
	for _, figure := range []func([]Result, string) panel{
		rates, times, latencies(Latency, "half of the throughput"), latencies(Equal, "the same rate for all"),
	} {
		line := []panel{figure(results, "W1"), figure(results, "W2")}
		if len(line[0].marks)+len(line[1].marks) > 0 {
			lines = append(lines, line)
		}
	}
	height := 20
	for _, line := range lines {
		height += lineHeight(line)
	}
	fmt.Fprintf(out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n",
		2*panelWidth+3*panelGap, height)
	fmt.Fprintln(out, `<rect width="100%" height="100%" fill="white"/>`)
	y := 20
	for _, line := range lines {
		for i, p := range line {
			p.draw(out, panelGap+i*(panelWidth+panelGap), y)
		}
		y += lineHeight(line)
	}
	fmt.Fprintln(out, "</svg>")
}

func lineHeight(line []panel) int {
	return headHeight + 20 + rowHeight*max(len(line[0].marks), len(line[1].marks))
}

func rates(results []Result, workload string) panel {
	return panel{workload + ": input records/s (more is better)", alike(results, workload, Result.PerSecond, true)}
}

func times(results []Result, workload string) panel {
	return panel{workload + ": processor seconds for a million records (less is better)", alike(results, workload, Result.PerMillion, false)}
}

// alike are the marks of the throughput, in W2 of the size that most systems have.
func alike(results []Result, workload string, figure func(Result) float64, more bool) []mark {
	all := rows(results, Throughput, workload)
	if workload == "W2" {
		count, most := map[int]int{}, 0
		for _, r := range all {
			if count[r.run.Orders]++; count[r.run.Orders] > count[most] {
				most = r.run.Orders
			}
		}
		all = slices.DeleteFunc(all, func(r row) bool { return r.run.Orders != most })
	}
	var marks []mark
	for _, r := range all {
		if len(r.ok) > 0 {
			s := over(r.ok, figure)
			marks = append(marks, mark{r.run.System, s, count(s.median)})
		}
	}
	return best(marks, more)
}

func latencies(mode, rate string) func([]Result, string) panel {
	return func(results []Result, workload string) panel {
		var marks []mark
		for _, r := range rows(results, mode, workload) {
			if len(r.ok) == 0 {
				continue
			}
			p50 := over(r.ok, func(r Result) float64 { return 1000 * r.P50 }).median
			p99 := over(r.ok, func(r Result) float64 { return 1000 * r.P99 }).median
			marks = append(marks, mark{r.run.System, spread{p50, p50, p99}, count(p50) + " to " + count(p99)})
		}
		return panel{workload + ": latency at " + rate + ", ms, p50 to p99", best(marks, false)}
	}
}

// best comes first. What is not more than 0 was not measured, and has no place on the axis.
func best(marks []mark, more bool) []mark {
	marks = slices.DeleteFunc(marks, func(m mark) bool { return m.least <= 0 })
	slices.SortStableFunc(marks, func(a, b mark) int {
		if more {
			a, b = b, a
		}
		return cmp.Compare(a.median, b.median)
	})
	return marks
}

func (p panel) draw(out io.Writer, x, y int) {
	if len(p.marks) == 0 {
		return
	}
	fmt.Fprintf(out, `<text x="%d" y="%d" font-weight="bold">%s</text>`+"\n", x, y+12, html.EscapeString(p.title))
	low, high := math.Inf(1), 0.0
	for _, m := range p.marks {
		low, high = min(low, m.least), max(high, m.most)
	}
	low, high = math.Floor(math.Log10(low)), math.Ceil(math.Log10(high))
	high = max(high, low+1)
	place := func(v float64) float64 {
		return float64(x+labelWidth) + (math.Log10(v)-low)/(high-low)*(panelWidth-labelWidth-70)
	}
	bottom := y + headHeight + rowHeight*len(p.marks) - 10
	for decade := low; decade <= high; decade++ {
		at := place(math.Pow(10, decade))
		fmt.Fprintf(out, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#e2e8f0"/>`+"\n", at, y+40, at, bottom)
		fmt.Fprintf(out, `<text x="%.1f" y="%d" text-anchor="middle" fill="#64748b" font-size="10">%s</text>`+"\n", at, y+33, count(math.Pow(10, decade)))
	}
	for i, m := range p.marks {
		middle := y + headHeight + rowHeight*i
		colour := theirs
		if m.system == Systems()[0].Name || m.system == Systems()[1].Name {
			colour = ourColour
		}
		fmt.Fprintf(out, `<text x="%d" y="%d" text-anchor="end" fill="%s">%s</text>`+"\n", x+labelWidth-12, middle+4, colour, html.EscapeString(m.system))
		fmt.Fprintf(out, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s" stroke-width="2"/>`+"\n", place(m.least), middle, place(m.most), middle, colour)
		fmt.Fprintf(out, `<circle cx="%.1f" cy="%d" r="4.5" fill="%s"/>`+"\n", place(m.median), middle, colour)
		fmt.Fprintf(out, `<text x="%.1f" y="%d" fill="%s" font-size="10">%s</text>`+"\n", place(m.most)+9, middle+4, colour, m.label)
	}
}

// count is a number as an axis shows it.
func count(v float64) string {
	switch {
	case v >= 1e6:
		return short(v/1e6) + " M"
	case v >= 1e4:
		return fmt.Sprintf("%.0f k", v/1e3)
	case v >= 1e3:
		return short(v/1e3) + " k"
	}
	return short(v)
}
