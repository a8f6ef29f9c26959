package framework

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/millrace/millrace/internal/watermark"
	"github.com/millrace/millrace/microstore"
)

// timersARound bounds how many timers fire in one commit.
const timersARound = 10_000

// round takes the next records of a batch, at most *most, and what timers are due, as far as one commit holds
// them. It halves *most when what they caused did not fit. done: the batch has been taken whole.
func (t *task) round(p *prepared, most *int) (done bool, err error) {
	began := time.Now()
	from, before := p.done, t.progress(p)
	to := min(from+*most, len(p.records))
	if p.few > 0 && to > from && t.due(p.stamps[from]) {
		to = from
	}
	upTo := p.reached(to)
	var c *commit
	var exact bool
	for {
		var bound int64
		if bound, exact, err = t.timers.Load(upTo, timersARound); err != nil {
			return false, Fatal(err)
		}
		if bound < upTo || !exact {
			to, upTo = p.until(from, to, bound, exact), bound
		}
		for _, s := range t.scopes {
			s.next, s.watermark, s.fired = watermark.Min, t.watermark, 0
		}
		if p.few > 0 && to == from {
			var all bool
			upTo, all, err = t.fireFew(p.few, from, upTo)
			exact = exact && all
		} else {
			err = t.runLanes(p, from, to, upTo)
		}
		if err == nil {
			t.move(p, from, to, upTo)
			c, err = t.gather(p, from, to)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, microstore.ErrTooBig) {
			return false, err
		}
		t.takeBack(p, before)
		if to, upTo, err = t.less(p, from, to, upTo, most, err); err != nil {
			return false, err
		}
	}
	p.done = to
	done = exact && to == len(p.records) && upTo == p.reached(to)
	if done {
		c.work, c.ended = p.work, t.watermark == watermark.Max && t.over()
	}
	c.info.Events, c.info.Processing = to-from, time.Since(began)
	return done, t.hand(c)
}

// less is what to try next when what comes of the records from..to and of the timers up to upTo does not fit one
// transaction: fewer records, down to one; then the timers before it by themselves, fewer and fewer; then
// the record without the timers after it. A record that does not fit even so becomes a fault.
func (t *task) less(p *prepared, from, to int, upTo int64, most *int, cause error) (int, int64, error) {
	switch {
	case to-from > 1:
		*most = (to - from) / 2
		return from + *most, p.reached(from + *most), nil
	case to == from && p.few == 1:
		return 0, 0, Fatal(fmt.Errorf("what one timer causes does not fit a transaction: %w", cause))
	case to == from && p.few > 0:
		p.few /= 2
		return to, upTo, nil
	case to == from:
		p.few = timersARound / 2
		return to, upTo, nil
	case t.due(p.stamps[from]):
		return from, p.stamps[from], nil
	case upTo > p.stamps[from]:
		return to, p.stamps[from], nil
	case p.fate[from] == fateFault:
		return 0, 0, Fatal(fmt.Errorf("the fault of one event does not fit a transaction: %w", cause))
	}
	p.fate[from] = fateFault
	if p.errs == nil {
		p.errs = map[int]error{}
	}
	p.errs[from] = Permanent(fmt.Errorf("what the event causes does not fit a transaction of the store: %w", cause))
	return to, upTo, nil
}

// until is the end of the records that may run before all timers up to bound have fired. Where several share
// the bound and not all of them are loaded, even those at it have to wait.
func (p *prepared) until(from, to int, bound int64, exact bool) int {
	for i := from; i < to; i++ {
		if p.stamps[i] > bound || !exact && p.stamps[i] == bound {
			return i
		}
	}
	return to
}

func (t *task) runLanes(p *prepared, from, to int, upTo int64) error {
	if len(t.scopes) == 1 {
		return t.runLane(0, p, from, to, upTo)
	}
	if to-from < parallelFrom {
		for lane := range t.scopes {
			if err := t.runLane(lane, p, from, to, upTo); err != nil {
				return err
			}
		}
		return nil
	}
	var wait sync.WaitGroup
	errs := make([]error, len(t.scopes))
	for lane := range t.scopes {
		wait.Go(func() { errs[lane] = t.runLane(lane, p, from, to, upTo) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// progress is how far a task has come.
type progress struct {
	watermark int64
	source    sourceProgress
}

func (t *task) progress(p *prepared) progress {
	before := progress{watermark: t.watermark}
	if p.work != nil {
		before.source = p.work.source.sourceProgress.clone()
	}
	return before
}

// move takes the task past the records from..to and to the watermark upTo.
func (t *task) move(p *prepared, from, to int, upTo int64) {
	t.watermark = max(t.watermark, upTo)
	if p.work == nil {
		return
	}
	src := p.work.source
	for i := from; i < to; i++ {
		if p.takesPart(i) {
			src.observe(&p.records[i], p.arena.header(i).Time)
		}
	}
	if to == len(p.records) && p.work.batch.End && src.merged == nil {
		src.bounded.End()
		src.over = true
	}
	if src.position {
		src.next, src.known = max(src.next, p.work.batch.cut(to)), true
	}
}

// takeBack undoes a round: what the lanes did, and the move.
func (t *task) takeBack(p *prepared, before progress) {
	t.watermark = before.watermark
	if p.work != nil {
		p.work.source.sourceProgress = before.source.clone()
	}
	for _, s := range t.scopes {
		s.restore(mark{})
		clear(s.counts)
	}
}

// gather makes a commit of what the lanes wrote: it puts their outputs in the order of the events, and adds
// the watermarks for the next stages, the sweep, and how far the task has come.
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
		records := t.addWatermarks(slot, t.merge(slot, p, from, to), sent)
		c.info.Outputs += len(records)
		if err := t.route(c, topic, records); err != nil {
			return nil, Fatal(err)
		}
	}
	t.slice.SetMeta(c.own, t.meta())
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
		s.reset(store.NewBatch())
	}
	for n, at := range sent {
		t.sent[n] = at
	}
	t.release(p, c)
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
	target := t.env.sinks[topic]
	if target.store == nil {
		data := make([]byte, 0, wireSize(records))
		for i := range records {
			data = AppendRecord(data, &records[i])
		}
		c.rows = append(c.rows, pending{target.relay, target.relay.outbox.Add(c.own, data), records, int64(len(data))})
		return nil
	}
	for partition, part := range split(records, target.partitions) {
		if len(part) == 0 {
			continue
		}
		if err := target.store.Append(c.own, topic, partition, part); err != nil {
			return err
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

const (
	// sweepAnEvent is how many stored entries are looked at for each event that comes in: enough to go round a
	// history several times while it is replaced once.
	sweepAnEvent = 4
	// sweepBytes is more than a delete takes of a transaction.
	sweepBytes = 1 << 10
)

// sweep removes some of the expired entries of each history, as far as there is room in the transaction. It comes
// last: what it forgets cannot be brought back for another try at the round.
func (t *task) sweep(c *commit, events, room int) error {
	for _, n := range t.stage.nodes {
		for i, state := range n.states {
			retained, ok := state.(interface{ retention() time.Duration })
			if !ok || retained.retention() == 0 {
				continue
			}
			floor := before(t.watermark, retained.retention())
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

// releaseEvery is how many records of an internal topic are let go at once, once they are behind the position.
const releaseEvery = 1 << 13

// release lets an internal topic forget what its only reader has processed, after the commit that says so.
func (t *task) release(p *prepared, c *commit) {
	if p.work == nil || p.work.source.merged == nil {
		return
	}
	src := p.work.source
	keeper, ok := t.env.config.Internal.(TopicKeeper)
	if !ok || src.next-src.released < releaseEvery {
		return
	}
	src.released = src.next
	before := src.next
	c.release = func() error { return keeper.Release(src.topic, t.partition, before) }
}
