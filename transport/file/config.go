package file

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Stdio is the path that means standard input or output.
const Stdio = "-"

// Config of a Transport: logical topic names and the files behind them.
type Config struct {
	// Inputs are the topics that can be read.
	Inputs map[string]Input
	// Outputs are the topics that can be written.
	Outputs map[string]Output
	// Stdin and Stdout are what the path "-" means. Default os.Stdin, os.Stdout.
	Stdin  io.Reader
	Stdout io.Writer
}

// Format is how a file is cut into records.
type Format string

// Formats. The zero value takes the one that the path's extension tells, without ".gz": .csv, .tsv
// (Comma is a tab), .jsonl, .ndjson, .json.
const (
	JSONLines Format = "jsonl"
	CSVRows   Format = "csv"
)

// Input is a file to read.
type Input struct {
	// Path of the file, "-" for standard input. A gzip file is known by its first bytes.
	Path string
	// Format: default by the path's extension; required for standard input.
	Format Format
	// Comma separates columns. Default ',', and a tab for .tsv.
	Comma byte
	// Columns names the columns of a CSV file that has no header row. Default: the first row is the header.
	Columns []string
	// Follow waits for more at the end of a plain file, as tail -f does. Default: the file's end is the
	// topic's end.
	Follow bool
	// PollInterval is how often a followed file is looked at. Default 100 ms.
	PollInterval time.Duration
	// MaxRecordBytes bounds a record. A longer one has Err set, and its first 4 KiB as value. Default 1 MiB.
	MaxRecordBytes int
}

// Output is a JSON Lines file to write.
type Output struct {
	// Path of the file, "-" for standard output. Its folder must be there.
	Path string
	// Overwrite empties a file with content when the engine has no position for it. Default: an error.
	Overwrite bool
	// Sync flushes the file to the disk in every Publish, so that it survives the loss of power.
	Sync bool
}

// WithDefaults returns a copy with the defaults filled in.
func (c Config) WithDefaults() Config {
	inputs := make(map[string]Input, len(c.Inputs))
	for topic, in := range c.Inputs {
		inputs[topic] = in.withDefaults()
	}
	c.Inputs = inputs
	if c.Stdin == nil {
		c.Stdin = os.Stdin
	}
	if c.Stdout == nil {
		c.Stdout = os.Stdout
	}
	return c
}

func (in Input) withDefaults() Input {
	extension := strings.ToLower(filepath.Ext(strings.TrimSuffix(strings.ToLower(in.Path), ".gz")))
	if in.Format == "" {
		switch extension {
		case ".csv", ".tsv":
			in.Format = CSVRows
		case ".jsonl", ".ndjson", ".json":
			in.Format = JSONLines
		}
	}
	if in.Comma == 0 {
		if in.Comma = ','; extension == ".tsv" {
			in.Comma = '\t'
		}
	}
	if in.PollInterval == 0 {
		in.PollInterval = 100 * time.Millisecond
	}
	if in.MaxRecordBytes == 0 {
		in.MaxRecordBytes = 1 << 20
	}
	return in
}

// Validate names everything that cannot be used. It does not look at the files.
func (c Config) Validate() error {
	var faults []error
	add := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	paths := make(map[string]string)
	for _, topic := range sortedKeys(c.Inputs) {
		in := c.Inputs[topic].withDefaults()
		if err := in.validate(); err != nil {
			add("input %q: %w", topic, err)
		}
		if in.Path != Stdio {
			paths[filepath.Clean(in.Path)] = fmt.Sprintf("input %q", topic)
		}
	}
	for _, topic := range sortedKeys(c.Outputs) {
		path := c.Outputs[topic].Path
		switch {
		case path == "":
			add("output %q: Path is empty", topic)
		case strings.HasSuffix(path, ".gz"):
			add("output %q: %s: outputs are not compressed, since they could not be cut back", topic, path)
		case path != Stdio && paths[filepath.Clean(path)] != "":
			add("output %q: %s is also %s", topic, path, paths[filepath.Clean(path)])
		}
		if _, both := c.Inputs[topic]; both {
			add("topic %q is both an input and an output: give them two names", topic)
		}
		if path != Stdio {
			paths[filepath.Clean(path)] = fmt.Sprintf("output %q", topic)
		}
	}
	return errors.Join(faults...)
}

func (in Input) validate() error {
	switch {
	case in.Path == "":
		return errors.New("Path is empty")
	case in.Format == "" && in.Path == Stdio:
		return errors.New(`Format is not set: for standard input say "csv" or "jsonl"`)
	case in.Format == "":
		return fmt.Errorf(`%s: Format is not set, and the extension does not tell: say "csv" or "jsonl"`, in.Path)
	case in.Format != CSVRows && in.Format != JSONLines:
		return fmt.Errorf(`Format is %q: it must be "csv" or "jsonl"`, in.Format)
	case in.Comma == '"' || in.Comma == '\r' || in.Comma == '\n' || in.Comma >= 0x80:
		return fmt.Errorf("Comma is %q: it cannot separate columns", in.Comma)
	case in.Follow && in.Path == Stdio:
		return errors.New("Follow is set for standard input: it ends when its writer closes it")
	case in.Follow && strings.HasSuffix(in.Path, ".gz"):
		return fmt.Errorf("%s: Follow is set for a compressed file: only plain files can be followed", in.Path)
	case in.MaxRecordBytes < 0:
		return fmt.Errorf("MaxRecordBytes is %d: it must be positive", in.MaxRecordBytes)
	case in.PollInterval < 0:
		return fmt.Errorf("PollInterval is %s: it must be positive", in.PollInterval)
	}
	if duplicate := firstDuplicate(in.Columns); duplicate != "" {
		return fmt.Errorf("Columns names %q twice", duplicate)
	}
	return nil
}

func firstDuplicate(names []string) string {
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return name
		}
	}
	return ""
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
