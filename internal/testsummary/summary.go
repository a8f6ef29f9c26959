package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/millrace/millrace/internal/testenv"
)

// read returns the lines of the record, each once, in order. No file means that no suite wrote to it.
func read(record string) ([]testenv.Line, error) {
	text, err := os.ReadFile(record)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var lines []testenv.Line
	for row := range strings.Lines(string(text)) {
		line, ok := testenv.ParseLine(row)
		if !ok {
			return nil, fmt.Errorf("not a line of the record: %q", row)
		}
		lines = append(lines, line)
	}
	slices.SortFunc(lines, func(a, b testenv.Line) int {
		return cmp.Or(
			cmp.Compare(a.Suite, b.Suite), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Used, b.Used),
			cmp.Compare(a.NotRun, b.NotRun), cmp.Compare(a.Why, b.Why))
	})
	return slices.Compact(lines), nil
}

// write prints two tables: services used, and what did not run.
func write(w io.Writer, lines []testenv.Line) error {
	var used, notRun [][3]string
	for _, line := range lines {
		if line.NotRun != "" {
			notRun = append(notRun, [3]string{line.Suite, line.NotRun, line.Why})
		} else {
			used = append(used, [3]string{line.Suite, line.Service, line.Used})
		}
	}
	return errors.Join(
		table(w, "Services used", "none: no suite asked for one", used),
		table(w, "Not run", "nothing: every suite ran whole", notRun))
}

func table(w io.Writer, title, empty string, rows [][3]string) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintf(w, "\n%s: %s\n", title, empty)
		return err
	}
	fmt.Fprintf(w, "\n%s\n", title)
	columns := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintf(columns, "  %s\t%s\t%s\n", row[0], row[1], oneLine(row[2]))
	}
	return columns.Flush()
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
