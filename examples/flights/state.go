package flights

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace/millrace/microstore"
)

// A state directory holds
//
//	flights.state   says that it is one
//	store/          the database
//	input/          the files that are part of the program, where none were given
//	feed/           with --transport, the database of what sends the files to it
const (
	markName  = "flights.state"
	markText  = "state of the Millrace example flights, format 1\n"
	storeName = "store"
	inputName = "input"
	feedName  = "feed"
	oldName   = "store.old" // a store that is being removed
)

// state is the opened state of a run.
type state struct {
	dir      string
	store    *microstore.Store
	resumed  bool   // an earlier run had begun
	finished bool   // and had come to its end
	start    []byte // what this run begins with, where no earlier one had
}

// start is what a run began with. Going on with something else would mix two answers.
type start struct {
	Inputs          map[string]string `json:"inputs"` // checksums
	Lateness        time.Duration     `json:"lateness"`
	WeatherLateness time.Duration     `json:"weather_lateness"`
	Partitions      int               `json:"partitions"`
	Transport       string            `json:"transport,omitempty"` // its scheme
	Prefix          string            `json:"prefix,omitempty"`
}

// Names of values in the store.
const (
	startName    = "flights.start"
	finishedName = "flights.finished"
)

func openState(o options, inputs map[string]string) (*state, error) {
	if err := checkDir(o.state); err != nil {
		return nil, fmt.Errorf("--state %s: %w", o.state, err)
	}
	if o.fresh {
		if err := forget(o.state); err != nil {
			return nil, fmt.Errorf("--fresh: --state %s: %w", o.state, err)
		}
	}
	s := &state{dir: o.state}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("--state %s: %w", o.state, err)
	}
	now := start{Inputs: inputs, Lateness: o.lateness, WeatherLateness: o.weatherLate, Partitions: o.partitions,
		Transport: o.scheme(), Prefix: o.prefix}
	if err := s.begin(now); err != nil {
		return nil, errors.Join(fmt.Errorf("--state %s: %w", o.state, err), s.store.Close())
	}
	return s, nil
}

// checkDir refuses a directory with contents that this example has not made.
func checkDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return short(err)
	}
	if len(entries) == 0 {
		return nil
	}
	switch mark, err := os.ReadFile(filepath.Join(dir, markName)); {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("the directory holds %q and is not the state of this example; choose another", entries[0].Name())
	case err != nil:
		return err
	case len(mark) > 0 && string(mark) != markText: // empty: the process died while it was written
		return fmt.Errorf("the directory holds %.60q, and this program knows %q; choose another",
			strings.TrimSpace(string(mark)), strings.TrimSpace(markText))
	}
	return nil
}

// forget removes the stores, unless a process is using it.
func forget(dir string) error {
	return errors.Join(forgetStore(dir, storeName), forgetStore(dir, feedName))
}

func forgetStore(dir, name string) error {
	path, old := filepath.Join(dir, name), filepath.Join(dir, oldName)
	if _, err := os.Stat(path); err == nil {
		store, err := microstore.Open(microstore.Config{Dir: path})
		if errors.Is(err, microstore.ErrLocked) {
			return err
		}
		if err == nil { // what cannot be opened can be removed as well
			if err := store.Close(); err != nil {
				return err
			}
		}
		if err := os.RemoveAll(old); err != nil {
			return err
		}
		if err := os.Rename(path, old); err != nil { // half a store would look like a damaged one
			return err
		}
	}
	return os.RemoveAll(old)
}

func (s *state) open() (err error) {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return fmt.Errorf("%w; choose another with --state", err)
	}
	mark := filepath.Join(s.dir, markName)
	if text, err := os.ReadFile(mark); err != nil || string(text) != markText {
		if err := os.WriteFile(mark, []byte(markText), 0o644); err != nil {
			return fmt.Errorf("%w; choose another with --state", err)
		}
	}
	s.store, err = microstore.Open(microstore.Config{Dir: filepath.Join(s.dir, storeName)})
	return err
}

// begin compares what this run starts with with what the state began with.
func (s *state) begin(now start) error {
	raw, known, err := s.store.Get(startName)
	if err != nil {
		return err
	}
	if !known {
		s.start, err = json.Marshal(now)
		return err
	}
	var was start
	if err := json.Unmarshal(raw, &was); err != nil {
		return fmt.Errorf("what the run began with cannot be read: %w; start over with --fresh", err)
	}
	if changes := was.changes(now); len(changes) > 0 {
		return fmt.Errorf("the state is of a run with something else: %s; give the same, start over with --fresh, "+
			"or choose another directory", strings.Join(changes, ", "))
	}
	s.resumed = true
	_, s.finished, err = s.store.Get(finishedName)
	return err
}

func (was start) changes(now start) (changes []string) {
	for _, name := range inputNames {
		if was.Inputs[name] != now.Inputs[name] {
			changes = append(changes, "--"+name+" has other contents")
		}
	}
	add := func(name string, was, now any) {
		if was != now {
			changes = append(changes, fmt.Sprintf("--%s was %v and is %v", name, was, now))
		}
	}
	add("lateness", was.Lateness, now.Lateness)
	add("weather-lateness", was.WeatherLateness, now.WeatherLateness)
	add("partitions", was.Partitions, now.Partitions)
	add("transport", cmp.Or(was.Transport, "none"), cmp.Or(now.Transport, "none"))
	add("prefix", was.Prefix, now.Prefix)
	return changes
}

// begun keeps what the run has begun with, once nothing of that was refused: who corrects a mistyped address does not want
// to hear that the state is of another.
func (s *state) begun(ctx context.Context) error {
	if s.resumed {
		return nil
	}
	return s.put(ctx, startName, s.start)
}

// finish keeps that the run is at its end, and what of its result is nowhere else.
func (s *state) finish(ctx context.Context, rest []byte) error { return s.put(ctx, finishedName, rest) }

func (s *state) put(ctx context.Context, name string, value []byte) error {
	b := s.store.NewBatch()
	b.Put(name, value)
	return s.store.Commit(ctx, b)
}
