package framework

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace/internal/seldom"
	"github.com/millrace/millrace/internal/watermark"
	"github.com/millrace/millrace/microstore"
)

// Stepper runs pipelines a batch at a time in the caller's goroutine: the same tasks, store and commits as
// Run, without router, subscribers and relays. It is for tests; see package frameworktest.
type Stepper struct{ runner *Runner }

// Step sets the runner up as Run does, and hands out control. All sinks and internal topics must be in the store.
func (r *Runner) Step(ctx context.Context) (*Stepper, error) {
	r.env = &env{
		config: r.config, hooks: sortHooks(r.config.Hooks), ctx: ctx,
		sinks: map[string]*sinkTarget{}, told: new(seldom.Kinds[faultKind]), fail: r.fail,
	}
	if err := r.setup(ctx); err != nil {
		return nil, errors.Join(err, r.closePublishers())
	}
	if len(r.relays) > 0 {
		return nil, errors.Join(fmt.Errorf("framework: sink %q is not in the store; a Stepper has no relays", r.relays[0].topic),
			r.closePublishers())
	}
	for _, t := range r.live() {
		t.inline = true
		if t.watermark > watermark.Min {
			if err := t.advance(t.now()); err != nil {
				return nil, err
			}
		}
		if t.resubmitted != nil {
			if err := t.takeResubmitted(); err != nil {
				return nil, err
			}
		}
	}
	return &Stepper{r}, nil
}

// Feed processes one batch of a source and commits it.
func (s *Stepper) Feed(b *Batch) error {
	for _, t := range s.runner.live() {
		for _, src := range t.sources {
			if src.topic != b.Topic || t.partition != b.Partition {
				continue
			}
			if err := t.step(src, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// Full tells whether an internal topic holds as much as Config.BacklogBytes. Where Run waits until the next stage has
// processed some of it, a Stepper goes on: Pump it.
func (s *Stepper) Full() bool {
	return slices.ContainsFunc(s.runner.live(), func(t *task) bool { return t.full() != nil })
}

// step takes a batch through the task, to the end of its last commit.
func (t *task) step(src *taskSource, b *Batch) error {
	w := &work{batch: b, source: src, done: make(chan error, 1)}
	if err := t.process(w); err != nil {
		return err
	}
	return <-w.done
}

// Resubmitted runs what Runner.Resubmit has queued.
func (s *Stepper) Resubmitted() error {
	for _, t := range s.runner.live() {
		if err := t.takeResubmitted(); err != nil {
			return err
		}
	}
	return nil
}

// Position is where to go on reading a partition of a source.
func (s *Stepper) Position(topic string, partition int) int64 {
	for _, t := range s.runner.live() {
		for _, src := range t.sources {
			if src.topic == topic && t.partition == partition {
				return src.next
			}
		}
	}
	return 0
}

// Pump feeds what is in the internal topics until there is no more. read returns records of a partition from an
// offset on, and the position after them.
func (s *Stepper) Pump(read func(topic string, partition int, from int64) ([]Record, int64, error)) error {
	for again := true; again; {
		again = false
		for _, t := range s.runner.live() {
			for _, src := range t.sources {
				if src.merged == nil {
					continue
				}
				records, next, err := read(src.topic, t.partition, src.next)
				if err != nil {
					return err
				}
				if len(records) == 0 {
					continue
				}
				again = true
				b := &Batch{Topic: src.topic, Partition: t.partition, Records: records, Next: next, CaughtUp: true}
				if err := t.step(src, b); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Advance raises the watermark of all sources to at least to. The zero time ends the sources.
func (s *Stepper) Advance(to time.Time) error {
	for _, t := range s.runner.live() {
		for _, src := range t.sources {
			switch {
			case src.merged != nil:
			case to.IsZero():
				src.bounded.End()
				src.over = true
			default:
				src.bounded.Observe(watermark.Ahead(to.UnixNano(), src.bounded.Bound))
			}
		}
		if at := t.now(); at > t.watermark {
			if err := t.advance(at); err != nil {
				return err
			}
		}
	}
	return nil
}

// History returns what the histories of a node keep for a key, as committed, expired events that have not been swept
// included: first by state, then by match value, oldest first. Value is the payload as the history's codec wrote it.
func (s *Stepper) History(node, key string) (all []Record, err error) {
	for _, t := range s.runner.live() {
		for _, n := range t.stage.nodes {
			if n.name != node {
				continue
			}
			for _, state := range t.states[n.index] {
				history, ok := state.(*microstore.History)
				if !ok {
					continue
				}
				var damaged error
				err := history.Of(key, func(_ string, e *microstore.Entry) bool {
					r, err := ReadRecord(e.Value)
					if err != nil {
						damaged = fmt.Errorf("framework: history of %q, event %q: %w", node, e.ID, err)
						return false
					}
					r.ID, r.Key, r.Time = e.ID, key, time.Unix(0, e.Time).UTC()
					all = append(all, r)
					return true
				})
				if err := errors.Join(err, damaged); err != nil {
					return nil, err
				}
			}
		}
	}
	return all, nil
}
