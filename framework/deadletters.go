package framework

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace/microstore"
)

// ParkedKey is a key that waits for an event that failed.
type ParkedKey struct {
	Pipeline, Key string
	// Task is the task that the key belongs to: "pipeline/topics/partition".
	Task string
	// Step is where the event failed, and Event its id.
	Step, Event string
	// Waiting is how many events are kept for the key, with the one that failed; Bytes is what they take.
	Waiting int
	Bytes   int64
}

// Parked calls fn for the keys of a pipeline that are parked, as committed, task by task, until it returns false. It
// may be called at any time, running or not. Where partitions are shared out among processes it tells of those that
// this one has; one that has none of a stage, of those that it had.
func (r *Runner) Parked(pipeline string, fn func(ParkedKey) bool) error {
	tasks, err := r.config.Store.Tasks()
	if err != nil {
		return fmt.Errorf("framework: %w", err)
	}
	own := map[string]bool{} // tasks, and stages of tasks, of shared partitions that are here
	for _, t := range r.live() {
		if t.own != nil {
			own[t.name], own[t.stage.name] = true, true
		}
	}
	for _, st := range r.stages {
		for _, name := range tasks {
			if own[st.name] && !own[name] || st.pipeline.name != pipeline || name[:strings.LastIndexByte(name, '/')+1] != st.name+"/" {
				continue
			}
			if more, err := parkedOf(r.config.Store, pipeline, name, fn); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

func parkedOf(store *microstore.Store, pipeline, task string, fn func(ParkedKey) bool) (more bool, err error) {
	slice, err := store.Task(task)
	if err != nil {
		return false, fmt.Errorf("framework: %w", err)
	}
	keys, err := slice.Table(parkedKeysName)
	if err != nil {
		return false, fmt.Errorf("framework: %w", err)
	}
	more = true
	var damaged error
	err = keys.All(func(key string, value []byte) bool {
		k, err := readParkedKey(value)
		if err != nil {
			damaged = fmt.Errorf("parked key %q: %w", key, err)
			return false
		}
		more = fn(ParkedKey{Pipeline: pipeline, Task: task, Key: key, Step: k.step, Event: k.event,
			Waiting: int(k.next - k.first), Bytes: k.bytes})
		return more
	})
	if err = errors.Join(err, damaged); err != nil {
		return false, fmt.Errorf("framework: task %s: %w", task, err)
	}
	return more, nil
}

// TopicReader is a Transport whose topics can be read outside of a run.
type TopicReader interface {
	// Read calls fn for the records of a partition from an offset on, in order, up to the end as it is when Read is
	// called, and returns the offset to go on at. An error of fn ends reading and is returned. One that may pass by itself
	// is marked Transient.
	Read(ctx context.Context, topic string, partition int, from int64, fn func(Record) error) (next int64, err error)
}

// DeadLetters calls fn for the faults of a pipeline, in order for each partition of its dead-letter topic, up to the
// end as it is now. One that is there in pieces (Fault.Piece) comes with the last of them and whole, or at the end as a piece,
// where others are missing. It needs a transport that is a TopicReader. It may be called at any time, running or not.
func (r *Runner) DeadLetters(ctx context.Context, pipeline string, fn func(Fault) error) error {
	i := slices.IndexFunc(r.stages, func(st *stage) bool { return st.pipeline.name == pipeline })
	if i < 0 {
		return fmt.Errorf("framework: dead letters: pipeline %q is none of this Runner's", pipeline)
	}
	topic := r.stages[i].pipeline.DeadLetters()
	transport, err := r.deadLetterTransport(r.stages[i])
	if err != nil {
		return fmt.Errorf("framework: dead letters: topic %q: %w", topic, err)
	}
	reader, ok := transport.(TopicReader)
	if !ok {
		return fmt.Errorf("framework: dead letters: the transport of topic %q cannot read it outside of a run; read the topic "+
			"with a pipeline or another program, and give the faults to Resubmit", topic)
	}
	info, err := transport.Topic(ctx, topic)
	switch {
	case errors.Is(err, ErrNoTopic): // nothing has failed yet
		return nil
	case err != nil:
		return fmt.Errorf("framework: dead letters: topic %q: %w", topic, err)
	}
	var pieces FaultPieces
	for partition := range info.Partitions {
		_, err := reader.Read(ctx, topic, partition, 0, func(record Record) error {
			var f Fault
			if err := json.Unmarshal(record.Value, &f); err != nil {
				return fmt.Errorf("framework: dead letters: topic %q, partition %d, offset %d: it is no fault: %w",
					topic, partition, record.Offset, err)
			}
			whole, ok, err := pieces.Add(f)
			if !ok || err != nil {
				return err
			}
			return fn(whole)
		})
		if err != nil {
			return err
		}
	}
	for _, piece := range pieces.Rest() {
		if err := fn(piece); err != nil {
			return err
		}
	}
	return nil
}

// deadLetterTransport is where the dead letters of a pipeline are: they need a place, whatever else is routed.
func (r *Runner) deadLetterTransport(st *stage) (Transport, error) {
	transport, err := r.transportOf(st, st.pipeline.DeadLetters())
	if err != nil && r.config.Internal != nil {
		return r.config.Internal, nil
	}
	return transport, err
}
