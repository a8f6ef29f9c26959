package framework

import (
	"encoding/binary"
	"fmt"

	"github.com/millrace/millrace/internal/fields"
)

// A task's meta is its position in every source, the watermarks behind them and its counts. It is written in
// every commit, so it always tells what the rest of the slice is the fold of.
//
//	version | watermark | n, n × (topic, its id, known, next, latest, ended, m, m × producer's watermark) |
//	n, n × (node's fingerprint, kinds × count)

const metaVersion = 3

// meta encodes how far the task has come, with what the lanes have counted since the last commit.
func (t *task) meta() []byte {
	b := []byte{metaVersion}
	b = binary.AppendVarint(b, t.watermark)
	b = binary.AppendUvarint(b, uint64(len(t.sources)))
	for _, src := range t.sources {
		latest, ended := src.bounded.State()
		b = fields.AppendString(fields.AppendString(b, src.topic), src.id)
		b = appendBool(b, src.known)
		b = binary.AppendVarint(b, src.next)
		b = binary.AppendVarint(b, latest)
		b = appendBool(b, ended)
		var producers []int64
		if src.merged != nil {
			producers = src.merged.State()
		}
		b = binary.AppendUvarint(b, uint64(len(producers)))
		for _, at := range producers {
			b = binary.AppendVarint(b, at)
		}
	}
	return t.appendCounts(b)
}

func (t *task) appendCounts(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(t.stage.nodes)))
	for _, n := range t.stage.nodes {
		b = binary.BigEndian.AppendUint64(b, n.path)
		total := t.tally.totals[n.path]
		for kind := range countKinds {
			sum := total[kind]
			for _, s := range t.scopes {
				sum += s.counts[n.index*countKinds+kind]
			}
			b = binary.AppendVarint(b, sum)
		}
	}
	return b
}

// count adds what a lane counted to the task's totals.
func (t *task) count(s *Scope) {
	t.tally.lock.Lock()
	defer t.tally.lock.Unlock()
	for _, n := range t.stage.nodes {
		for kind := range countKinds {
			t.tally.totals[n.path][kind] += s.counts[n.index*countKinds+kind]
		}
	}
	clear(s.counts)
}

// restoreMeta sets the task to what meta says.
func (t *task) restoreMeta(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	w := fields.Reader{Rest: b}
	if v := w.Byte(); v != metaVersion {
		return fmt.Errorf("task %s: its position is written in format %d, this release reads %d", t.name, v, metaVersion)
	}
	t.watermark = w.Varint()
	for n := w.Uvarint(); n > 0 && !w.Failed; n-- {
		at := readSourceMeta(&w)
		src := t.source(at.topic)
		if src == nil {
			continue
		}
		src.known, src.next = at.known, at.next
		src.bounded.Reset(at.latest, at.ended)
		if err := src.sameTopic(at.id); err != nil && !w.Failed {
			return err
		}
		for i, mark := range at.producers {
			if src.merged != nil {
				src.merged.Observe(i, mark)
			}
		}
	}
	t.tally.lock.Lock()
	defer t.tally.lock.Unlock()
	for n := w.Uvarint(); n > 0 && !w.Failed; n-- {
		path := uint64(0)
		for range 8 {
			path = path<<8 | uint64(w.Byte())
		}
		total := t.tally.totals[path]
		for kind := range countKinds {
			if v := w.Varint(); total != nil {
				total[kind] = v
			}
		}
	}
	if w.Failed {
		return fmt.Errorf("task %s: its position in the store: %w", t.name, ErrWire)
	}
	return nil
}

// sameTopic checks that the topic is the one that the position is of.
func (src *taskSource) sameTopic(id string) error {
	if src.id == "" {
		src.id = id // it may be told again later
	}
	if !src.known || id == "" || id == src.id {
		return nil
	}
	if src.resubmits { // all of it is still to be done
		src.known, src.next = false, 0
		return nil
	}
	return fmt.Errorf("topic %q: %w: position %d in the store is of the topic with the id %s, and the topic of that name has the id %s: "+
		"it was made anew, or is of another cluster; use another store directory to make the state anew, or go back to the topic that the state is of",
		src.topic, ErrForeignState, src.next, id, src.id)
}

// sourceMeta is what meta says of a source.
type sourceMeta struct {
	topic, id    string
	known, ended bool
	next, latest int64
	producers    []int64
}

func readSourceMeta(w *fields.Reader) (at sourceMeta) {
	at.topic, at.id = w.String(), w.String()
	at.known, at.next, at.latest, at.ended = w.Byte() == 1, w.Varint(), w.Varint(), w.Byte() == 1
	for m := w.Uvarint(); m > 0 && !w.Failed; m-- {
		at.producers = append(at.producers, w.Varint())
	}
	return at
}

// metaPositions reads how far a task has come in its sources.
func metaPositions(b []byte) (map[string]int64, error) {
	w := fields.Reader{Rest: b}
	if v := w.Byte(); v != metaVersion {
		return nil, fmt.Errorf("its position is written in format %d, this release reads %d", v, metaVersion)
	}
	w.Varint()
	at := map[string]int64{}
	for n := w.Uvarint(); n > 0 && !w.Failed; n-- {
		if src := readSourceMeta(&w); src.known {
			at[src.topic] = src.next
		}
	}
	if w.Failed {
		return nil, ErrWire
	}
	return at, nil
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}
