package outbox

import (
	"maps"
	"time"
)

// passes decides when a pass over the table begins, and where.
//
// A pass usually begins at the highest id that was seen Settle ago, so that what is being sent and deleted is not read
// again; where that is little and all else is to be sent, at the first row (see loop.floor). What appears below, of a
// transaction that took longer to commit, each read finds (see Relay.read), and a pass begins below it. Every FullScan a
// pass begins at the first row, and reads the parked keys.
type passes struct {
	settle, full     time.Duration
	pollMin, pollMax time.Duration
	interval         time.Duration
	at               time.Time // when the next one begins
	woken, wantFull  bool
	lastFull         time.Time
	active           bool
	began            time.Time
	fresh            int   // rows that this pass has found
	cursor           int64 // the highest id that it has read
	slots            map[int]int64
	high             int64 // the highest id ever seen
	lowest           int64 // a row that has appeared below a pass; 0: none
	marks            []highMark
}

type highMark struct {
	at time.Time
	id int64
}

func newPasses(c RelayConfig) passes {
	return passes{settle: c.Settle, full: c.FullScan, pollMin: c.PollMin, pollMax: c.PollMax, interval: c.PollMin, wantFull: true}
}

// wake makes a pass begin as soon as none is running.
func (p *passes) wake() { p.woken = true }

// restart ends the pass that is running, and makes the next one begin at once at the first row.
func (p *passes) restart() { p.wantFull, p.active, p.at = true, false, time.Time{} }

// late ends the pass, because a row has appeared below it, and makes the next one begin at once below that row.
func (p *passes) late(id int64) {
	if p.lowest == 0 || id < p.lowest {
		p.lowest = id
	}
	p.active, p.at = false, time.Time{}
}

// fail ends the pass after an error.
func (p *passes) fail(next time.Time) {
	p.active, p.at, p.woken, p.wantFull = false, next, false, true
}

func (p *passes) due(now time.Time) bool { return p.woken || !now.Before(p.at) }

// begin begins a pass; full: at the first row.
func (p *passes) begin(now time.Time, floor int64, slots map[int]int64) (full bool) {
	full = p.wantFull || now.Sub(p.lastFull) >= p.full
	p.cursor = floor
	if p.lowest > 0 {
		p.cursor = min(floor, p.lowest-1)
	}
	p.lowest = 0
	if full {
		p.cursor, p.lastFull, p.wantFull = 0, now, false
	}
	p.active, p.began, p.fresh, p.woken = true, now, 0, false
	p.slots = maps.Clone(slots)
	return full
}

// read takes note of what a read of the pass has found.
func (p *passes) read(now time.Time, fresh int, caughtUp bool) {
	p.fresh += fresh
	switch {
	case caughtUp:
		p.active = false
		if p.fresh > 0 {
			p.interval = p.pollMin
		} else {
			p.interval = min(2*p.interval, p.pollMax)
		}
		p.at = now.Add(p.interval)
	case p.fresh > 0 && now.Sub(p.began) > passTime:
		p.late(p.cursor + 1)
	}
	p.mark(now)
}

func (p *passes) see(id int64) { p.high = max(p.high, id) }

// mark notes the highest id now and then.
func (p *passes) mark(now time.Time) {
	if n := len(p.marks); n == 0 || now.Sub(p.marks[n-1].at) >= p.settle/8 {
		p.marks = append(p.marks, highMark{now, p.high})
	}
	for len(p.marks) > 1 && now.Sub(p.marks[1].at) >= p.settle {
		p.marks = p.marks[1:]
	}
}

// settled is the highest id that had been seen Settle ago.
func (p *passes) settled(now time.Time) int64 {
	if len(p.marks) == 0 || now.Sub(p.marks[0].at) < p.settle {
		return 0
	}
	return p.marks[0].id
}
