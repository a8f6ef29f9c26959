package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "doccheck:", err)
		os.Exit(1)
	}
}

func run(paths []string, out io.Writer) error {
	documents, err := markdown(paths)
	if err != nil {
		return err
	}
	tests, err := declaredTests()
	if err != nil {
		return err
	}
	var programs []program
	var faults []string
	for _, document := range documents {
		text, err := os.ReadFile(document)
		if err != nil {
			return err
		}
		programs = append(programs, find(document, string(text))...)
		faults = append(faults, stale(document, string(text), tests)...)
	}
	if len(faults) > 0 {
		return fmt.Errorf("the documentation names what is not there:\n%s", strings.Join(faults, "\n"))
	}
	if err := check(programs); err != nil {
		return err
	}
	fmt.Fprintf(out, "doccheck: %d programs in %d documents build, and the tests and files that they name are there\n", len(programs), len(documents))
	return nil
}

// markdown returns the Markdown files among paths and under the directories among them, sorted, each once.
func markdown(paths []string) ([]string, error) {
	var documents []string
	for _, path := range paths {
		err := filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() && strings.EqualFold(filepath.Ext(name), ".md") {
				documents = append(documents, filepath.Clean(name))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(documents)
	return slices.Compact(documents), nil
}
