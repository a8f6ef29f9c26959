package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var (
	// namedTest is a test as prose names it: a code span, with a part of it perhaps.
	namedTest = regexp.MustCompile("`((?:Test|Benchmark|Fuzz)[A-Z]\\w*)(?:/[\\w-]+)?`")
	declared  = regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Fuzz)[A-Z]\w*)\(`)
	link      = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

// stale returns a line for each test that a document names and tests does not have, and for each link to a file that is
// not there. Links to the web and to headings are not looked at.
func stale(document, text string, tests map[string]bool) []string {
	var faults []string
	number := 0
	for row := range strings.Lines(text) {
		number++
		for _, match := range namedTest.FindAllStringSubmatch(row, -1) {
			if !tests[match[1]] {
				faults = append(faults, fmt.Sprintf("%s:%d: there is no test %s: name the one that shows this", document, number, match[1]))
			}
		}
		for _, match := range link.FindAllStringSubmatch(row, -1) {
			path, _, _ := strings.Cut(match[1], "#")
			if path == "" || strings.Contains(path, "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(document), filepath.FromSlash(path))); err != nil {
				faults = append(faults, fmt.Sprintf("%s:%d: the link leads to %s, which is not there", document, number, path))
			}
		}
	}
	return faults
}

// declaredTests are the names of all tests, benchmarks and fuzz targets below the working directory.
func declaredTests() (map[string]bool, error) {
	tests := make(map[string]bool)
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for _, match := range declared.FindAllStringSubmatch(string(text), -1) {
			tests[match[1]] = true
		}
		return nil
	})
	return tests, err
}
