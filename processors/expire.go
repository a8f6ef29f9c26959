package processors

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/framework"
)

// Expire calls f for each stored event when the watermark has passed its time + after, and AllowedLateness, with
// the history up to its time + after: "A without B within two hours". f returns false for nothing to emit. What
// it emits has the time at which the event expired, and an id that follows from the event's.
//
//	unpaid := processors.Expire(collected, "unpaid", 2*time.Hour,
//		func(h framework.View[Change], e *framework.Event[Change]) (Alert, bool, error) { ... })
//
// f is called once for each event, also if the process was down when it fell due, and sees nothing of what came
// after: an event at the very edge is in the history, one later is not, even if it has arrived. An event that
// MaxCount or MaxBytes has pushed out of the history by then does not expire; it is counted as dropped.
//
// after must not be longer than the history's Retain. Each event costs a timer: a write now, a delete then.
func Expire[T, B any](c *Collected[T], name string, after time.Duration,
	f func(h framework.View[T], e *framework.Event[T]) (B, bool, error)) *framework.Stream[B] {
	in := c.Stream
	need(in.Pipeline(), "expire", name, "f", f != nil)
	switch {
	case after <= 0:
		invalid(in.Pipeline(), "expire", name, fmt.Errorf("after is %v; it must be positive", after))
	case c.config.Retain > 0 && after > c.config.Retain:
		invalid(in.Pipeline(), "expire", name, fmt.Errorf("after is %v; the history is retained for %v", after, c.config.Retain))
	}
	// Events up to the time that it expires may come so much behind the watermark. The history has it and all
	// that is at most Retain before that time until then.
	wait := after + c.wait + instant
	step := framework.Step{
		Name: name, Kind: "expire", Detail: fmt.Sprintf("after %v", after),
		Hold: c.config.AllowedLateness + instant,
	}
	return framework.AddStep(in, step, func(st *framework.Step, next framework.Next[B]) framework.Next[T] {
		st.OnTimer = func(s *framework.Scope, t framework.Timer) error {
			match, from := string(t.Payload), t.At.Add(-wait)
			e, ok, err := c.history.Get(s, match, from, t.ID)
			if err != nil {
				return err
			}
			switch bounded := c.config.MaxCount > 0 || c.config.MaxBytes > 0; {
			case !ok && bounded && !c.history.Expired(s, from): // it was pushed out
				s.Dropped(st)
				return nil
			case !ok:
				gone(s, st, fmt.Sprintf("event %q of %s", t.ID, from.Format(time.RFC3339Nano)))
				return nil
			}
			due := from.Add(after)
			first := startOfTime
			if c.config.Retain > 0 {
				first = due.Add(-c.config.Retain)
			}
			h, err := c.history.Between(s, match, first, due)
			if err != nil {
				return err
			}
			data, ok, err := f(h, e)
			if err != nil || !ok {
				return err
			}
			return next(s, framework.Derive(s, st, 0, due, data, &e.Header))
		}
		return func(s *framework.Scope, e *framework.Event[T]) error {
			match, err := matchOf(c.group, e)
			if err != nil {
				return err
			}
			return s.SetTimer(st, e.Time.Add(wait), e.ID(), []byte(match))
		}
	})
}
