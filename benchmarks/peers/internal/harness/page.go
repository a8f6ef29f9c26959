package harness

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	tablesBegin = "<!-- tables -->"
	tablesEnd   = "<!-- end of tables -->"
)

// WritePage puts the plot and the tables of results between two marks of a Markdown page. The plot is a file beside it
// with the ending .svg.
func WritePage(name string, results []Result) error {
	if len(results) == 0 {
		return errors.New("there are no results yet")
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(raw), tablesBegin)
	_, after, also := strings.Cut(rest, tablesEnd)
	if !ok || !also {
		return fmt.Errorf("%s has no %s with %s behind it", name, tablesBegin, tablesEnd)
	}
	var page, plot bytes.Buffer
	svg := strings.TrimSuffix(name, ".md") + ".svg"
	fmt.Fprintf(&page, "%s%s\n\n![Rates, processor times and latencies](%s)\n\n", before, tablesBegin, filepath.Base(svg))
	Report(&page, results)
	page.WriteString(tablesEnd + after)
	Plot(&plot, results)
	return errors.Join(os.WriteFile(name, page.Bytes(), 0o644), os.WriteFile(svg, plot.Bytes(), 0o644))
}
