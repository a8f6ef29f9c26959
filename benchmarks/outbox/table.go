package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// printTables prints a table for each workload and sink, with medians and spreads. The first line of each table is what
// the ratios are of.
func printTables(out io.Writer, wanted []run, results map[run][]result) {
	last := ""
	var first []result
	for _, r := range wanted {
		all := results[r]
		if title := r.workload + ", sink " + r.sink; title != last {
			last, first = title, all
			fmt.Fprintf(out, "\n### %s\n\n", heading(r))
			if r.workload == latencies {
				fmt.Fprintln(out, "| system | p50, ms | p99, ms | p50, times the first's | p99, times the first's | notes |\n|---|---|---|---|---|---|")
			} else {
				fmt.Fprintln(out, "| system | rows | thousand rows/s | times the first's | system, CPU s per million | database, CPU s per million | notes |\n|---|---|---|---|---|---|---|")
			}
		}
		if all[0].Skipped != "" {
			fmt.Fprintf(out, "| %s | %s |\n", r.system, all[0].Skipped)
			continue
		}
		if r.workload == latencies {
			half, most := of(all, p50), of(all, p99)
			fmt.Fprintf(out, "| %s | %s | %s | %.2f | %.2f | %s |\n", r.system, spread(half), spread(most),
				median(half)/median(of(first, p50)), median(most)/median(of(first, p99)), notes(all))
			continue
		}
		rates := of(all, rate)
		fmt.Fprintf(out, "| %s | %d | %s | %.3g | %s | %s | %s |\n", r.system, all[0].Rows, spread(rates), median(rates)/median(of(first, rate)),
			spread(of(all, own)), spread(of(all, database)), notes(all))
	}
}

func heading(r run) string {
	switch r.workload {
	case inboxes:
		return "Inbox: messages that nothing is done with"
	case inserts:
		return fmt.Sprintf("Writers: a row a transaction, %d at the same time", inserters)
	case latencies:
		if r.sink == "none" {
			return "From a commit to a function, at 1000 rows a second"
		}
		return "From a commit to a consumer of Kafka, at 1000 rows a second"
	}
	if r.sink == "none" {
		return "A backlog, into a function that counts"
	}
	return "A backlog, into Kafka"
}

func p50(r result) float64 { return millis(r.P50) }
func p99(r result) float64 { return millis(r.P99) }
func rate(r result) float64 {
	return float64(r.Rows) / r.Wall.Seconds() / 1000
}
func own(r result) float64      { return r.Own.Seconds() / float64(r.Rows) * 1e6 }
func database(r result) float64 { return r.Database.Seconds() / float64(r.Rows) * 1e6 }

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func of(all []result, value func(result) float64) []float64 {
	var values []float64
	for _, r := range all {
		values = append(values, value(r))
	}
	return values
}

func notes(all []result) string {
	late, duplicates := 0, 0
	for _, r := range all {
		late, duplicates = max(late, r.Late), max(duplicates, r.Duplicates)
	}
	text := ""
	if late > 0 {
		text = fmt.Sprintf("up to %d of %d not delivered %v after the last commit ", late, all[0].Rows, usualPatience)
	}
	if duplicates > 0 {
		text += fmt.Sprintf("up to %d duplicates", duplicates)
	}
	return text
}

func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// spread prints the median, with the least and the most.
func spread(all []float64) string {
	if median(all) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3g [%.3g..%.3g]", median(all), slices.Min(all), slices.Max(all))
}
