package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace/millrace/framework"
)

// evidence is the directory of a schedule. It is kept when a guarantee is broken:
//
//	settings.json  what the seed decided
//	plan           what was to be done from outside, and input.jsonl, what was fed
//	events         what was done and found, with times
//	m0, m0.log, …  directories and words of the processes
//	expected.json  what had to come, and outputs.jsonl, what came, in the order in which it was read
type evidence struct {
	dir    string
	events *os.File
}

func newEvidence(under string, s *settings) (*evidence, error) {
	dir := filepath.Join(under, fmt.Sprintf("%s-%d-%d", s.Kind, s.Seed, time.Now().UnixNano()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	events, err := os.Create(filepath.Join(dir, "events"))
	return &evidence{dir, events}, err
}

func (e *evidence) path(name string) string { return filepath.Join(e.dir, name) }

// say writes a line to the events.
func (e *evidence) say(format string, args ...any) {
	fmt.Fprintf(e.events, "%s %s\n", time.Now().Format(clock), fmt.Sprintf(format, args...))
}

// begin writes what is known before the schedule runs.
func (e *evidence) begin(s *settings, plan []step, in *input) error {
	return errors.Join(
		e.write("settings.json", func(w io.Writer) error { return indented(w, s) }),
		e.write("plan", func(w io.Writer) error {
			for _, p := range plan {
				fmt.Fprintf(w, "after %s: %s\n", p.Wait, p)
			}
			return nil
		}),
		e.write("input.jsonl", func(w io.Writer) error {
			encoder := json.NewEncoder(w)
			for _, c := range in.chunks {
				for _, r := range append(c.orders, c.payments...) {
					if err := encoder.Encode(cameAs{Key: r.Key, ID: r.ID, Value: string(r.Value)}); err != nil {
						return err
					}
				}
			}
			return nil
		}),
		e.write("expected.json", func(w io.Writer) error {
			pairs := []pair{}
			for p := range in.pairs {
				pairs = append(pairs, p)
			}
			return indented(w, map[string]any{"payments of orders": in.payments, "orders of customers": in.customers, "pairs": pairs})
		}))
}

// cameAs is a record in the evidence.
type cameAs struct {
	Topic     string `json:",omitempty"`
	Partition int
	Offset    int64
	ID, Key   string
	Value     string
}

// outputs returns what takes records as they are read.
func (e *evidence) outputs() (record func(topic string, partition int, r *framework.Record), done func() error, err error) {
	file, err := os.Create(e.path("outputs.jsonl"))
	if err != nil {
		return nil, nil, err
	}
	encoder := json.NewEncoder(file)
	record = func(topic string, partition int, r *framework.Record) {
		_ = encoder.Encode(cameAs{topic, partition, r.Offset, r.ID, r.Key, string(r.Value)}) // a full disk shows elsewhere
	}
	return record, file.Close, nil
}

func (e *evidence) write(name string, fill func(io.Writer) error) error {
	file, err := os.Create(e.path(name))
	if err != nil {
		return err
	}
	return errors.Join(fill(file), file.Close())
}

func indented(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// copyDir copies a directory's files; blocks of nothing but zeros become holes, of which a store's files have many.
func copyDir(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o700)
		}
		return copyFile(path, filepath.Join(to, name))
	})
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	size, err := copyBlocks(source, target)
	return errors.Join(err, target.Truncate(size), target.Close())
}

func copyBlocks(source io.Reader, target io.WriteSeeker) (size int64, err error) {
	block, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(source, block)
		if n > 0 && string(block[:n]) != string(zeros[:n]) {
			_, writeErr := target.Write(block[:n])
			if writeErr != nil {
				return size, writeErr
			}
		} else if _, err := target.Seek(int64(n), io.SeekCurrent); err != nil {
			return size, err
		}
		size += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return size, nil
		}
		if err != nil {
			return size, err
		}
	}
}
