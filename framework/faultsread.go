package framework

import (
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
}

func faultsReadName(task string) string { return "framework.faults/" + task }

// faultsRead tells from where on the dead letters are to be read, by partition.
func (t *task) faultsRead(info TopicInfo) ([]int64, error) {
	all := make([]int64, info.Partitions)
	raw, ok, err := t.env.config.Store.Get(faultsReadName(t.name))
	if err != nil || !ok {
		return all, err
	}
	var was faultsRead
	if err := json.Unmarshal(raw, &was); err != nil {
		return all, fmt.Errorf("up to where they were read before: %w", err)
	}
	if was.Topic != info.ID || info.ID == "" || t.watermark < was.Watermark {
		return all, nil
	}
	for topic, at := range was.Positions {
		if src := t.source(topic); src == nil || !src.known || src.next < at {
			return all, nil
		}
	}
	copy(all, was.Ends)
	return all, nil
}

// keepFaultsRead keeps up to where the dead letters have been read.
func (t *task) keepFaultsRead(info TopicInfo, ends []int64) error {
	read := faultsRead{Topic: info.ID, Ends: ends, Positions: map[string]int64{}, Watermark: t.watermark}
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
