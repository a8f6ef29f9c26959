package framework

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
)

// faultsRead says up to where the dead letters tell of nothing that a task was yet to process, when it was at some
// positions. Who comes back to a partition with its slice, or just starts again, reads what has been added since. It goes for a
// slice that is as far as that or further; one that was dropped, or lost its newest commits, may be before.
type faultsRead struct {
	Topic     string           `json:"topic"` // id of the dead letters'
	Ends      []int64          `json:"ends"`  // by partition of it
	Positions map[string]int64 `json:"positions"`
	Watermark int64            `json:"watermark"`
	Differs   bool             `json:"differs,omitempty"` // what they told of has been processed
}

func faultsReadName(task string) string { return "framework.faults/" + task }

// faultsRead tells from where on the dead letters are to be read, by partition, and whether the slice differs from others by
// what is before.
func (t *task) faultsRead(info TopicInfo) (from []int64, differs bool, err error) {
	from = make([]int64, info.Partitions)
	raw, ok, err := t.env.config.Store.Get(faultsReadName(t.name))
	if err != nil || !ok {
		return from, false, err
	}
	var was faultsRead
	if err := json.Unmarshal(raw, &was); err != nil {
		return from, false, fmt.Errorf("up to where they were read before: %w", err)
	}
	if t.watermark < was.Watermark {
		return from, false, nil
	}
	for topic, at := range was.Positions {
		if src := t.source(topic); src == nil || !src.known || src.next < at {
			return from, false, nil
		}
	}
	if was.Topic == info.ID && info.ID != "" {
		copy(from, was.Ends)
	}
	return from, was.Differs, nil
}

// keepFaultsRead keeps up to where the dead letters have been read.
func (t *task) keepFaultsRead(past *pastFaults) error {
	read := faultsRead{Topic: past.topic.ID, Ends: past.ends, Positions: map[string]int64{}, Watermark: t.watermark, Differs: past.differs}
	for _, src := range t.sources {
		if src.known {
			read.Positions[src.topic] = src.next
		}
	}
	raw, err := json.Marshal(read)
	if err != nil {
		return err
	}
	b := t.env.config.Store.NewBatch()
	b.Put(faultsReadName(t.name), raw)
	return t.env.config.Store.Commit(t.env.ctx, b)
}

const storeIDName = "framework.store"

// nameStore gives the store a name, unless it has one, by which a task knows the faults of other processes.
func (r *Runner) nameStore() error {
	raw, ok, err := r.config.Store.Get(storeIDName)
	if err != nil {
		return fmt.Errorf("framework: %w", err)
	}
	if r.env.storeID = string(raw); ok {
		return nil
	}
	r.env.storeID = rand.Text()
	b := r.config.Store.NewBatch()
	b.Put(storeIDName, []byte(r.env.storeID))
	if err := r.config.Store.Commit(r.env.ctx, b); err != nil {
		return fmt.Errorf("framework: %w", err)
	}
	return nil
}
