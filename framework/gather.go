package framework

import (
	"fmt"
	"strconv"
	"time"

	"github.com/millrace/millrace/internal/watermark"
	"github.com/millrace/millrace/microstore"
)

// gather makes a commit of what the lanes wrote: it puts their outputs in the order of the events, and adds
// the watermarks for the next stages, the sweep, the ids of what was processed, and how far the task has come.
func (t *task) gather(p *prepared, from, to int) (*commit, error) {
	store := t.env.config.Store
	c := &commit{own: store.NewBatch()}
	c.info.Task, c.info.Watermark = t.name, timeOf(t.watermark)
	if p.work != nil {
		c.info.Topic = p.work.source.topic
	}
	c.batches = append(c.batches, c.own)
	sent := map[*node]int64{}
	for slot, topic := range t.stage.topics {
		if t.catching && !t.own.differs && slot != len(t.stage.topics)-1 {
			continue // who had the partition before has sent it; but what fails now may not have failed there
		}
		records := t.addWatermarks(slot, t.merge(slot, p, from, to), sent)
		c.info.Outputs += len(records)
		if err := t.route(c, topic, records); err != nil {
			return nil, Fatal(err)
		}
	}
	t.slice.SetMeta(c.own, t.meta())
	p.remember(c, from, to)
	if t.own != nil && t.own.log != nil {
		if err := t.own.log.row(c); err != nil {
			return nil, Fatal(err)
		}
	}
	room, rawRoom := store.MaxBatchBytes()-c.own.Bytes(), store.MaxRawBytes()-c.own.RawBytes()
	for _, s := range t.scopes {
		room -= s.batch.Bytes()
		rawRoom -= s.batch.RawBytes()
	}
	if room < 0 || rawRoom < 0 {
		c.own.Rollback(microstore.Mark{})
		return nil, fmt.Errorf("%w: %d bytes, at most %d; %d with large values, at most %d", microstore.ErrTooBig,
			store.MaxBatchBytes()-room, store.MaxBatchBytes(), store.MaxRawBytes()-rawRoom, store.MaxRawBytes())
	}
	room = min(room, rawRoom)
	if err := t.sweep(c, to-from, room); err != nil {
		return nil, Fatal(err)
	}
	for _, s := range t.scopes {
		c.batches = append(c.batches, s.batch)
		c.faults = append(c.faults, s.faults...)
		t.count(s)
		if len(s.hinted) > 0 {
			if err := s.settleHints(); err != nil {
				return nil, err
			}
		}
		s.reset(store.NewBatch())
	}
	if p.work != nil && p.work.source.known {
		t.tally.moved(p.work.source.topic, p.work.source.next)
	}
	if c.changes != nil {
		t.own.log.place.seq = c.seq
	}
	for n, at := range sent {
		t.sent[n] = at
	}
	if p.work != nil && p.work.source.keeper != nil && t.own == nil { // else see letGo
		c.read, c.readTo = p.work.source, p.work.source.next
	}
	return c, nil
}

// merge puts what the lanes sent to a topic in the order of the events that caused it.
func (t *task) merge(slot int, p *prepared, from, to int) []Record {
	if len(t.scopes) == 1 {
		return t.scopes[0].outputs[slot].records
	}
	n := 0
	for _, s := range t.scopes {
		n += len(s.outputs[slot].records)
	}
	if n == 0 {
		return nil
	}
	all := takeRecords(n + 1)
	at := make([]int, len(t.scopes))
	for i := from; i < to; i++ {
		lane := p.owner[i]
		out := &t.scopes[lane].outputs[slot]
		for at[lane] < len(out.records) && out.orders[at[lane]] <= int32(i) {
			all = append(all, out.records[at[lane]])
			at[lane]++
		}
	}
	for lane, s := range t.scopes {
		all = append(all, s.outputs[slot].records[at[lane]:]...)
	}
	return all
}

// addWatermarks tells the next stage how far this one has come, where that changed.
func (t *task) addWatermarks(slot int, records []Record, sent map[*node]int64) []Record {
	if len(records) == 0 {
		records = nil // the lane goes on with a slice that it has put nothing into
	}
	for _, n := range t.stage.sinks {
		at := watermark.Behind(t.watermark, t.stage.hold[n])
		if !n.sink.internal || n.sink.slot != slot {
			continue
		}
		if at == watermark.Min && t.silent { // a watermark without a time: idle
			records = append(records, Record{Watermark: true, Source: strconv.Itoa(t.partition)})
		}
		if at <= t.sent[n] {
			continue
		}
		if at == watermark.Max && !t.over() {
			continue // of an earlier run: this one has not come to the end yet
		}
		sent[n] = at
		records = append(records, Record{
			Watermark: true, Source: strconv.Itoa(t.partition), Time: time.Unix(0, at).UTC()})
	}
	return records
}

// route puts records where they go: into the commit, when their topic lives in the store, or into an outbox row
// that a relay sends after the commit.
func (t *task) route(c *commit, topic string, records []Record) error {
	if len(records) == 0 {
		return nil
	}
	target := t.sinks[topic]
	if target.store == nil {
		data := AppendRecords(t.row[:0], records, nil)
		t.row = data
		row := target.relay.outbox.Add(c.own, data)
		c.rows = append(c.rows, pending{relay: target.relay, row: row, records: records, bytes: int64(len(data) + len(records)*recordBytes)})
		return nil
	}
	for partition, part := range split(records, target.partitions) {
		if len(part) == 0 {
			continue
		}
		before := c.own.RawBytes()
		if err := target.store.Append(c.own, topic, partition, part); err != nil {
			return err
		}
		if target.backlog != nil {
			c.decided = append(c.decided, decided{target.backlog, partition, int64(len(part)), int64(c.own.RawBytes() - before)})
		}
	}
	return nil
}

// split sorts records by partition; watermarks go to all of them.
func split(records []Record, n int) [][]Record {
	if n == 1 {
		return [][]Record{records}
	}
	parts := make([][]Record, n)
	for i := range records {
		r := &records[i]
		if r.Watermark {
			for q := range parts {
				parts[q] = append(parts[q], *r)
			}
			continue
		}
		key := r.Key
		if key == "" {
			key = r.ID
		}
		q := Partition(key, n)
		parts[q] = append(parts[q], *r)
	}
	return parts
}

// sweep removes some of the expired entries of each history, as far as there is room in the transaction. It comes
// last: what it forgets cannot be brought back for another try at the round.
func (t *task) sweep(c *commit, events, room int) error {
	from := t.sweepFrom()
	for _, n := range t.stage.nodes {
		for i, state := range n.states {
			retained, ok := state.(interface{ retention() time.Duration })
			if !ok || retained.retention() == 0 {
				continue
			}
			floor := before(from, retained.retention())
			scan := min(sweepAnEvent*events+64, room/sweepBytes)
			removed, err := t.states[n.index][i].(*microstore.History).Sweep(c.own, floor, scan)
			if err != nil {
				return err
			}
			room -= removed * sweepBytes
		}
	}
	return nil
}

const (
	// sweepAnEvent is how many stored entries are looked at for each event that comes in: enough to go round a
	// history several times while it is replaced once.
	sweepAnEvent = 4
	// sweepBytes is more than a delete takes of a transaction.
	sweepBytes = 1 << 10
)
