package processors

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
)

// CollectConfig bounds a history. At least one of the first three has to be given.
type CollectConfig struct {
	// Retain is how long an event stays, by its time against the watermark; AllowedLateness comes on top of it.
	// Default 0: no bound by time.
	Retain time.Duration
	// MaxCount and MaxBytes bound the history of one key (and group); the newest stay. Default 0: no bound.
	MaxCount int
	MaxBytes int64
	// AllowedLateness is how far behind the watermark events may come and still be waited for: by Expire, and by
	// the windows of the steps after an evaluation. Default 0. An event that is later is stored and evaluated
	// like any, as long as the history would still have it; but what it was to prevent may have happened.
	AllowedLateness time.Duration
}

func (c CollectConfig) validate() error {
	var errs []error
	if c.Retain < 0 || c.MaxCount < 0 || c.MaxBytes < 0 || c.AllowedLateness < 0 {
		errs = append(errs, errors.New("Retain, MaxCount, MaxBytes and AllowedLateness cannot be negative"))
	}
	if c.Retain == 0 && c.MaxCount == 0 && c.MaxBytes == 0 {
		errs = append(errs, errors.New("the history has no bound: give Retain, MaxCount or MaxBytes"))
	}
	return errors.Join(errs...)
}

func (c CollectConfig) String() string {
	s := ""
	if c.Retain > 0 {
		s += fmt.Sprintf(", %v", c.Retain)
	}
	if c.MaxCount > 0 {
		s += fmt.Sprintf(", newest %d", c.MaxCount)
	}
	if c.MaxBytes > 0 {
		s += fmt.Sprintf(", %d bytes", c.MaxBytes)
	}
	if s == "" {
		return s
	}
	return "keeps" + s[1:]
}

// Collected is a stream whose events are kept, by key, for Evaluate and Expire to look at.
type Collected[T any] struct {
	// Stream has each event once, when it has been stored, without duplicates and late ones.
	Stream *framework.Stream[T]

	history *framework.History[T]
	group   func(T) string
	config  CollectConfig
	wait    time.Duration // how far behind the watermark events come that are waited for
	retain  time.Duration // with that
}

// Collect stores each event in the history of its key: a micro event store. An event that is there already, by
// its id, is counted as a duplicate and goes no further. One that is older than what the history keeps goes
// to the dead letters as late.
//
//	placed := processors.Collect(orders, "placed", processors.CollectConfig{Retain: 24 * time.Hour})
//	alerts := processors.Evaluate(placed, "alerts", manyInShortTime)
//
// To collect by another key, re-key first; to keep only some events, Select or Filter first. Histories of
// steps with different names have nothing to do with each other.
//
// Each event is written once, whatever the length of its history.
func Collect[T any](in *framework.Stream[T], name string, config CollectConfig) *Collected[T] {
	return CollectBy(in, name, nil, config)
}

// CollectBy is Collect with a history for each key and group: those who evaluate it see the events of the
// group only. An empty group is a fault.
func CollectBy[T any](in *framework.Stream[T], name string, group func(T) string, config CollectConfig) *Collected[T] {
	invalid(in.Pipeline(), "collect", name, config.validate())
	c := &Collected[T]{group: group, config: config, wait: config.AllowedLateness + in.Behind()}
	if config.Retain > 0 {
		c.retain = config.Retain + c.wait + instant // an instant more: see Expire
	}
	c.history = framework.NewHistory("events", framework.HistoryConfig[T]{
		Retain: c.retain, MaxCount: config.MaxCount, MaxBytes: config.MaxBytes})
	step := framework.Step{
		Name: name, Kind: "collect", Detail: config.String(), States: []framework.State{c.history},
	}
	c.Stream = framework.AddStep(in, step, func(st *framework.Step, next framework.Next[T]) framework.Next[T] {
		return func(s *framework.Scope, e *framework.Event[T]) error {
			if err := framework.NeedKey(&e.Header); err != nil {
				return err
			}
			match, err := matchOf(group, e)
			if err != nil {
				return err
			}
			if c.retain > 0 && s.Passed(e.Time.Add(c.retain-instant)) {
				late(s, st, &e.Header, e.Time.Add(c.retain-instant))
				return nil
			}
			added, err := c.history.Append(s, e, match)
			switch {
			case errors.Is(err, microstore.ErrExpired):
				s.Late(st, &e.Header, fmt.Errorf("%w: it is older than all that the history of its key has room for", ErrLate))
				return nil
			case err != nil:
				return err
			case !added:
				s.Dropped(st)
				return nil
			}
			return next(s, e)
		}
	})
	return c
}

// view is the live history of the current key and a group.
func (c *Collected[T]) view(s *framework.Scope, match string) (framework.View[T], error) {
	w := s.Watermark()
	if c.retain == 0 || w.IsZero() {
		return c.history.View(s, match)
	}
	return c.history.Between(s, match, w.Add(instant-c.retain), endOfTime)
}

// startOfTime and endOfTime are the first and the last time that a history can hold.
var (
	startOfTime = time.Unix(0, math.MinInt64).UTC()
	endOfTime   = time.Unix(0, math.MaxInt64).UTC()
)
