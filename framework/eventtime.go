package framework

import (
	"time"

	"github.com/millrace/millrace/internal/watermark"
)

// least is the least watermark of the sources but one, the idle ones left out; Max when all of the rest have ended.
// waiting: one was left out, so the end of the rest is not the end of the task.
func (t *task) least(but *taskSource) (at int64, waiting bool) {
	at = watermark.Max
	for _, src := range t.sources {
		switch {
		case src == but:
		case src.idle:
			waiting = true
		default:
			at = min(at, src.now())
		}
	}
	return at, waiting
}

// over tells whether this run has come to the end of all sources. A watermark at the end of time does not say that:
// it may be of an earlier run, and more may have come since.
func (t *task) over() bool {
	for _, src := range t.sources {
		if !src.over {
			return false
		}
	}
	return true
}

// ticker wakes the task to look for idle sources; never where they do not count.
func (t *task) ticker() (<-chan time.Time, func()) {
	idle := t.env.config.IdleAfter
	if idle < 0 {
		return nil, func() {}
	}
	tick := time.NewTicker(max(idle/4, time.Millisecond))
	return tick.C, tick.Stop
}

// wake looks for idle sources at wall time now. See Config.IdleAfter.
func (t *task) wake(now time.Time) error {
	if t.catching { // the events decide alone how far it comes
		return nil
	}
	all := true
	for _, src := range t.sources {
		if src.merged == nil && !src.idle && src.now() != watermark.Max {
			src.idle = src.caughtUp && len(src.pending) == 0 && now.Sub(src.lastSeen) >= t.env.config.IdleAfter
		}
		all = all && (src.idle || src.now() == watermark.Max || src.merged != nil && src.merged.AllIdle())
	}
	if all && t.watermark == watermark.Min && (!t.silent || t.own != nil) {
		// The next stages do not wait for a partition that never had an event. Where partitions are shared out they are
		// told again and again: a stage that moves to another process has not heard it.
		t.silent = true
		return t.advance(t.watermark)
	}
	to := t.now()
	if !all {
		t.idleSince = time.Time{}
	} else if t.idleSince.IsZero() {
		t.idleSince = now
		for _, src := range t.sources {
			if src.idle {
				to = max(to, src.now())
			}
		}
	} else if t.watermark != watermark.Min {
		to = watermark.Ahead(t.watermark, max(0, now.Sub(t.idleSince)))
		t.idleSince = now
	}
	if to <= t.watermark {
		return nil
	}
	return t.advance(to)
}

// now is the watermark of the task: the least of its sources', the idle ones left out.
func (t *task) now() int64 {
	least, waiting := t.least(nil)
	if least == watermark.Max && waiting {
		return t.watermark
	}
	return max(t.watermark, least)
}
