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

// prepared is a batch with its events decoded.
type prepared struct {
	work    *work
	records []Record
	arena   arena
	fate    []fate
	errs    map[int]error
	ids     []string // what the events are known by, where the topic has no positions; "": not to be remembered
	owner   []uint8  // lane of each record
	stamps  []int64  // watermark before each record, and after the last
	done    int      // records that earlier rounds have taken
	advance int64    // without a batch: the watermark to reach
	few     int      // timers that a round fires at most, when more have not fitted a transaction; else 0
}

// fate is what happens to a record.
type fate uint8

const (
	fateRun       fate = iota
	fateFault          // it cannot be decoded
	fatePassed         // it is not for this source
	fateBehind         // its position was committed before
	fateProcessed      // its id was
	fateMark           // it is a watermark
)

// parallelFrom is how many events make it worth while to wake other lanes.
const parallelFrom = 32

// prepare decodes a batch and stamps it with watermarks.
func (t *task) prepare(w *work) *prepared {
	n := len(w.batch.Records)
	p := &prepared{
		work: w, records: w.batch.Records, arena: w.source.node.source.reader.arena(n),
		fate: make([]fate, n), owner: make([]uint8, n), stamps: make([]int64, n+1),
	}
	if w.source.processed != nil {
		p.ids = make([]string, n)
	}
	t.decode(p)
	p.dropProcessed()
	t.stamp(p)
	return p
}

func (t *task) decode(p *prepared) {
	n, lanes := len(p.records), len(t.scopes)
	if lanes == 1 || n < parallelFrom {
		p.errs = t.decodeRange(p, 0, n)
		return
	}
	var wait sync.WaitGroup
	faults := make([]map[int]error, lanes)
	for l := range lanes {
		wait.Go(func() { faults[l] = t.decodeRange(p, n*l/lanes, n*(l+1)/lanes) })
	}
	wait.Wait()
	for _, f := range faults {
		for i, err := range f {
			if p.errs == nil {
				p.errs = map[int]error{}
			}
			p.errs[i] = err
		}
	}
}

func (t *task) decodeRange(p *prepared, from, to int) (errs map[int]error) {
	src := p.work.source
	for i := from; i < to; i++ {
		r := &p.records[i]
		switch {
		case src.position && src.known && r.Offset < src.next && (r.Err == nil || ClassOf(r.Err) != ClassFatal):
			p.fate[i] = fateBehind
			continue
		case r.Watermark && src.merged != nil:
			p.fate[i] = fateMark
			continue
		}
		err := t.decodeOne(p, i, r)
		if p.ids != nil && !errors.Is(err, errPassedOver) {
			err = p.identify(i, r, err)
		}
		h := p.arena.header(i)
		switch {
		case len(t.scopes) == 1:
		case h.Key == "":
			p.owner[i] = uint8(i % len(t.scopes))
		default:
			p.owner[i] = uint8(microstore.Shard(h.Key) % len(t.scopes))
		}
		switch {
		case err == nil:
		case errors.Is(err, errPassedOver):
			p.fate[i] = fatePassed
		default:
			p.fate[i] = fateFault
			if errs == nil {
				errs = map[int]error{}
			}
			errs[i] = err
		}
	}
	return errs
}

// decodeOne decodes record i; a codec or extractor that panics gives an error.
func (t *task) decodeOne(p *prepared, i int, r *Record) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = panicked(v)
		}
	}()
	src := p.work.source
	if err := p.arena.decode(i, r, p.work.batch); err != nil {
		return err
	}
	h := p.arena.header(i)
	if src.node.source.keyed && src.spread && (t.stage.stateful || t.parking != nil) && r.Key != h.Key {
		other := h.Key
		h.Key = "" // it is another task's
		return Permanent(fmt.Errorf("topic %q is partitioned by another key: the record's is %q, the event's %q; re-key the stream",
			src.topic, r.Key, other))
	}
	if !h.Time.IsZero() && (h.Time.Before(earliest) || h.Time.After(latest)) {
		return Permanent(fmt.Errorf("the event's time %s is out of range; %s to %s can be kept",
			h.Time.Format(time.RFC3339), earliest.Format(time.DateOnly), latest.Format(time.DateOnly)))
	}
	if h.Time.IsZero() && t.stage.stateful {
		return fmt.Errorf("%w, and the stage keeps state; give its source a Time, or its record a %s", errNoTime, MetadataTime)
	}
	return nil
}

// Times are kept as nanoseconds since 1970 in 64 bits.
var (
	earliest = time.Date(1678, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC)
)

// stamp computes the watermark before each record, without moving the source's own.
func (t *task) stamp(p *prepared) {
	src := p.work.source
	ahead := src.sourceProgress.clone()
	others, waiting := t.least(src)
	raise := func(now int64) int64 {
		at := min(others, ahead.now())
		if at == watermark.Max && waiting {
			return now
		}
		return max(now, at)
	}
	now := raise(t.watermark)
	for i := range p.records {
		p.stamps[i] = now
		if p.takesPart(i) {
			ahead.observe(&p.records[i], p.arena.header(i).clock())
			now = raise(now)
		}
	}
	if p.work.batch.End && src.merged == nil {
		ahead.bounded.End()
		now = raise(now)
	}
	p.stamps[len(p.records)] = now
}

// takesPart tells whether a record counts for the watermark.
func (p *prepared) takesPart(i int) bool { return p.fate[i] == fateRun || p.fate[i] == fateMark }

// reached is the watermark after the first n records.
func (p *prepared) reached(n int) int64 {
	if p.work == nil {
		return p.advance
	}
	return p.stamps[n]
}

// producerOf is the number of the task that sent a watermark.
func producerOf(r *Record) int {
	n, err := strconv.Atoi(r.Source)
	if err != nil {
		return -1
	}
	return n
}
