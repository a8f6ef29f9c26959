package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"
)

// Kinds of schedules: what the pipeline runs on, and what of Millrace it leans on.
const (
	embeddedKind  = "embedded"  // one process, all topics in its store
	plainKind     = "plain"     // Kafka; state is made anew from the sources' topics
	changelogKind = "changelog" // Kafka; state is made anew from a changelog, and what is processed is deleted
	parkedKind    = "parked"    // the same, and keys wait behind what failed
)

var kinds = []string{embeddedKind, plainKind, changelogKind, parkedKind}

// settings are what a seed decides about a schedule. The driver and its processes make the same input and pipeline of them.
type settings struct {
	Seed uint64
	Kind string

	// The run's own, not the seed's: where Kafka is, what the names of topics begin with, and a file: while it is there, steps fail
	// for events that are marked so.
	Brokers, Prefix, Broken string

	// The pipeline.
	Lanes, BatchEvents, InFlight   int
	OutboxBytes, MemoryBytes       int64
	Partitions, InternalPartitions int
	CopyBytes                      int64  // of the changelog
	CommitInterval                 string // how often the group hears of positions
	Distinct, JoinFirst            bool
	Hold                           int // seconds of event time that parked keys are held; 0: for ever

	// The input.
	Orders, Customers int
	Quantum           int // seconds: times are multiples, so that many are equal
	Chunk             int // how many orders are fed together, at most
	Poison            int // per mille of the orders, for each way to fail
	Pad               int // bytes of some orders, about

	// The faults.
	Seconds int // how long the input is fed, about
	Pause   int // milliseconds between two steps of the plan, at most
	Deaths  int // how many processes may die at a failpoint
	Hits    int // at which hit of it, at most
}

func pick[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

// drawn are the settings of a seed, of one of the kinds, with overlay, which is JSON, over them.
func drawn(seed uint64, among []string, overlay string) (settings, error) {
	r := rand.New(rand.NewPCG(seed, 1))
	s := settings{
		Seed: seed, Kind: pick(r, among...),
		Lanes: pick(r, 1, 2, 4), BatchEvents: pick(r, 3, 10, 50, 1000), InFlight: pick(r, 1, 3, 5),
		OutboxBytes: pick(r, int64(0), 20_000), MemoryBytes: pick(r, int64(32<<20), 64<<20),
		Partitions: pick(r, 1, 3, 4, 8, 8), InternalPartitions: pick(r, 1, 3, 4, 4),
		CopyBytes: pick(r, int64(2<<10), 32<<10, 0), CommitInterval: pick(r, "20ms", "20ms", "200ms", "1s"),
		Distinct: r.IntN(2) == 0, JoinFirst: r.IntN(2) == 0, Hold: pick(r, 0, 0, 0, 60),
		Orders: pick(r, 600, 1500, 3000), Customers: pick(r, 5, 40, 200), Quantum: pick(r, 1, 1, 30, 300), Chunk: pick(r, 10, 60, 200),
		Poison: pick(r, 0, 3, 10, 15), Pad: pick(r, 0, 0, 5000),
		Seconds: 35, Pause: pick(r, 400, 800, 2000, 8000), Deaths: pick(r, 0, 20, 40, 60), Hits: pick(r, 10, 60, 300),
	}
	if s.Kind == embeddedKind {
		s.Distinct = s.Distinct || r.IntN(2) == 0
	}
	if s.Kind != parkedKind {
		s.Hold = 0
	}
	if overlay != "" {
		decoder := json.NewDecoder(strings.NewReader(overlay))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&s); err != nil {
			return s, fmt.Errorf("-set %s: it takes JSON of the fields of settings: %w", overlay, err)
		}
		if !slices.Contains(kinds, s.Kind) {
			return s, fmt.Errorf("-set has the kind %q: it can be %s", s.Kind, strings.Join(kinds, ", "))
		}
	}
	return s, nil
}

func (s *settings) topic(name string) string { return s.Prefix + name }

// pipeline is the pipeline's name, and its group's.
func (s *settings) pipeline() string { return s.topic("soak") }

// parks: a pipeline in one process without Distinct parks, too, since what is resubmitted twice must not count twice.
func (s *settings) parks() bool {
	return s.Kind == parkedKind || s.Kind == embeddedKind && !s.Distinct
}

func (s *settings) logs() bool { return s.Kind == changelogKind || s.Kind == parkedKind }

// resubmits tells whether dead letters may be resubmitted again and again: something knows what was taken.
func (s *settings) resubmits() bool { return s.parks() || s.Distinct }

// flips tells whether what fails may come and go. Otherwise all that is to fail does, until the end: a process that takes over
// may process again what another has done, and has to have the same outcome (docs/guarantees.md).
func (s *settings) flips() bool {
	return s.resubmits() && (s.logs() || s.Kind == embeddedKind)
}

// broken tells whether what is to fail fails now.
func (s *settings) broken() bool {
	_, err := os.Stat(s.Broken)
	return err == nil
}

// setBroken makes it so.
func (s *settings) setBroken(on bool) error {
	if on {
		return os.WriteFile(s.Broken, nil, 0o644)
	}
	if err := os.Remove(s.Broken); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// feedTime is how long the input is fed, about.
func (s *settings) feedTime() time.Duration { return time.Duration(s.Seconds) * time.Second }

// strikeTime is how long the plan is done: a little longer.
func (s *settings) strikeTime() time.Duration { return s.feedTime() * 6 / 5 }

const (
	joinBefore, joinAfter = time.Minute, 10 * time.Minute
	pairWithin            = time.Minute
	outOfOrder            = 30 * time.Second
)
