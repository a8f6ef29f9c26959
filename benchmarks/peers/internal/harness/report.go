package harness

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// row is all results of one run.
type row struct {
	run     Run
	all, ok []Result
}

// Report writes tables of results: medians [least..most] of those that count.
func Report(out io.Writer, results []Result) {
	for _, machine := range machines(results) {
		fmt.Fprintf(out, "%s.\n\n", machine)
		var own []Result
		for _, r := range results {
			if r.Machine == machine {
				own = append(own, r)
			}
		}
		for _, table := range tables() {
			table.write(out, rows(own, table.mode, table.workload))
		}
	}
}

func machines(results []Result) []string {
	var all []string
	for _, r := range results {
		if !slices.Contains(all, r.Machine) {
			all = append(all, r.Machine)
		}
	}
	return all
}

// rows gathers the results of a mode and workload, by size and then in the order of Systems.
func rows(results []Result, mode, workload string) []row {
	var all []row
	for _, r := range results {
		if r.Mode != mode || r.Workload != workload {
			continue
		}
		i := slices.IndexFunc(all, func(o row) bool { return o.run == r.run() })
		if i < 0 {
			i, all = len(all), append(all, row{run: r.run()})
		}
		all[i].all = append(all[i].all, r)
		if r.OK() {
			all[i].ok = append(all[i].ok, r)
		}
	}
	order := names()
	slices.SortStableFunc(all, func(a, b row) int {
		size := 0
		if workload == "W2" { // in W1 each system has its own
			size = cmp.Compare(a.run.Orders, b.run.Orders)
		}
		empty := 0
		if a.run.Empty != b.run.Empty {
			empty = 1
			if b.run.Empty {
				empty = -1
			}
		}
		return cmp.Or(size, empty, cmp.Compare(a.run.Rate, b.run.Rate), cmp.Compare(slices.Index(order, a.run.System), slices.Index(order, b.run.System)))
	})
	return all
}

// table is one of the page.
type table struct {
	title, mode, workload string
	columns               []column
}

type column struct {
	title string
	cell  func(row) string
}

func tables() []table {
	system := column{"system", func(r row) string { return r.run.System }}
	runs := column{"runs that count", func(r row) string { return fmt.Sprintf("%d of %d", len(r.ok), len(r.all)) }}
	records := column{"input records", func(r row) string { return fmt.Sprint(r.all[0].Inputs) }}
	memory := known("peak memory, MiB", func(r Result) float64 { return float64(r.PeakRSS >> 20) })
	anonymous := known("without files, MiB", func(r Result) float64 { return float64(r.PeakAnonymous >> 20) })
	throughput := []column{
		system, records, runs,
		figure("thousand records/s", func(r Result) float64 { return r.PerSecond() / 1000 }),
		known("processor s per million", Result.PerMillion),
		known("with its start", func(r Result) float64 { return r.CPUWithStart / float64(r.Inputs) * 1e6 }),
		known("broker's s per million", func(r Result) float64 { return r.BrokerCPU / float64(r.Inputs) * 1e6 }),
		memory, anonymous,
		figure("state on disk, MiB", func(r Result) float64 { return float64(r.State >> 20) }),
	}
	latency := []column{
		system, runs, figure("records/s", func(r Result) float64 { return r.Rate }),
		figure("p50, ms", func(r Result) float64 { return 1000 * r.P50 }),
		figure("p99, ms", func(r Result) float64 { return 1000 * r.P99 }),
		known("inputs: p50, ms", func(r Result) float64 { return 1000 * r.InputP50 }),
		known("p99, ms", func(r Result) float64 { return 1000 * r.InputP99 }),
		known("of a processor, %", func(r Result) float64 { return 100 * r.Busy() }), memory, anonymous,
	}
	killed := []column{
		system, {"state", func(r row) string { return map[bool]string{false: "kept", true: "lost"}[r.run.Empty] }},
		{"records before", func(r row) string { return fmt.Sprint(r.run.set().Inputs()) }}, runs,
		figure("next output, s", func(r Result) float64 { return r.NextOutput }),
		figure("caught up, s", func(r Result) float64 { return r.CaughtUp }),
		counted("outputs again", func(r Result) float64 { return float64(r.Again) }),
		counted("outputs missing", func(r Result) float64 { return float64(r.Missing) }),
	}
	return []table{
		{"W1, throughput", Throughput, "W1", throughput},
		{"W2, throughput", Throughput, "W2", throughput},
		{"W1, latency at half of the throughput", Latency, "W1", latency},
		{"W2, latency at half of the throughput", Latency, "W2", latency},
		{"W1, latency at the same rate for all", Equal, "W1", latency},
		{"W2, latency at the same rate for all", Equal, "W2", latency},
		{"W2, kill -9 and a start at once", Kill, "W2", killed},
	}
}

// figure is a column of what was measured in the runs that count.
func figure(title string, of func(Result) float64) column {
	return column{title, func(r row) string { return show(over(r.ok, of), len(r.ok)) }}
}

// known is such a column of what not all results have.
func known(title string, of func(Result) float64) column {
	return column{title, func(r row) string {
		have := slices.DeleteFunc(slices.Clone(r.ok), func(one Result) bool { return of(one) == 0 })
		return show(over(have, of), len(have))
	}}
}

// counted is a column over all runs.
func counted(title string, of func(Result) float64) column {
	return column{title, func(r row) string { return show(over(r.all, of), len(r.all)) }}
}

func show(s spread, n int) string {
	switch {
	case n == 0:
		return "–"
	case s.least == s.most:
		return short(s.median)
	}
	return fmt.Sprintf("%s [%s..%s]", short(s.median), short(s.least), short(s.most))
}

// short has about three digits.
func short(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	}
	return strings.TrimSuffix(fmt.Sprintf("%.2f", v), ".00")
}

func (t table) write(out io.Writer, rows []row) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(out, "### %s\n\n", t.title)
	for _, c := range t.columns {
		fmt.Fprintf(out, "| %s ", c.title)
	}
	fmt.Fprintln(out, "|")
	for range t.columns {
		fmt.Fprint(out, "|---")
	}
	fmt.Fprintln(out, "|")
	for _, r := range rows {
		for _, c := range t.columns {
			fmt.Fprintf(out, "| %s ", c.cell(r))
		}
		fmt.Fprintln(out, "|")
	}
	fmt.Fprintln(out)
}
