package framework

import (
	"errors"
	"fmt"
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
	waited, err := t.awaitRoom()
	if err != nil {
		return false, err
	}
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
			s.next, s.watermark, s.fired, s.told = watermark.Min, t.watermark, 0, 0
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
		if err := t.takeBack(p, before); err != nil {
			return false, err
		}
		if to, upTo, err = t.less(p, from, to, upTo, most, err); err != nil {
			return false, err
		}
	}
	p.done = to
	done = exact && to == len(p.records) && upTo == p.reached(to)
	if done {
		c.work, c.ended = p.work, t.watermark == watermark.Max && t.over()
		if t.own != nil && t.passedGroup() {
			c.reached = t.unmarked() // not before: timers of this moment may be left
		}
	}
	c.info.Events, c.info.Waiting, c.info.Processing = to-from, waited, time.Since(began)
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
	p.errs[from] = errTooBigToRun(cause)
	return to, upTo, nil
}

func errTooBigToRun(cause error) error {
	return Permanent(fmt.Errorf("what the event causes does not fit a transaction of the store: %w", cause))
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
			src.observe(&p.records[i], p.arena.header(i).clock())
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
func (t *task) takeBack(p *prepared, before progress) error {
	t.watermark = before.watermark
	if p.work != nil {
		p.work.source.sourceProgress = before.source.clone()
	}
	for _, s := range t.scopes {
		s.restore(mark{})
		clear(s.counts)
		if err := s.settleHints(); err != nil {
			return Fatal(err)
		}
	}
	return nil
}
