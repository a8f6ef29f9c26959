package processors

import (
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/framework"
)

// Tumbling cuts event time into windows of equal size, one after the other, the same for all keys.
type Tumbling struct {
	// Size of a window. Windows begin at multiples of it since the year 1, in UTC: days at midnight, weeks on
	// Mondays. Required.
	Size time.Duration
	// AllowedLateness is how far behind the watermark events may come and still find their window open;
	// default 0.
	AllowedLateness time.Duration
}

func (w Tumbling) validate() error {
	var errs []error
	if w.Size <= 0 {
		errs = append(errs, fmt.Errorf("Size is %v; it must be positive", w.Size))
	}
	if w.AllowedLateness < 0 {
		errs = append(errs, fmt.Errorf("AllowedLateness is %v; it cannot be negative", w.AllowedLateness))
	}
	return errors.Join(errs...)
}

// Compact passes on one event for each key and window of time: the last one by time, then id, as what f makes of
// it. f sees all events of the window, in order, the last being the one that goes on. It is called when the
// window has closed, exactly once, and not for windows without events.
//
//	newest := processors.Compact(prices, "newest", processors.Tumbling{Size: time.Minute},
//		func(window framework.View[Price]) (Price, error) { return window.At(window.Len() - 1).Data, nil })
//
// The result has time, type and metadata of the last event, and an id that follows from its id. Events that
// come after their window has closed are late; duplicates are counted and left out.
//
// Windows are of event time and not of batches: what is in a batch is chance, and a replay would pass on other
// events. Nor do they end by a pause between events, because a key that never pauses would never be passed on.
// Each event costs a write, each window a timer.
func Compact[T, B any](in *framework.Stream[T], name string, window Tumbling,
	f func(window framework.View[T]) (B, error)) *framework.Stream[B] {
	need(in.Pipeline(), "compact", name, "f", f != nil)
	if err := window.validate(); err != nil {
		invalid(in.Pipeline(), "compact", name, err)
		window.Size = time.Hour // the pipeline does not run; it only has to be built to the end
	}
	lateness := window.AllowedLateness + in.Behind()
	// A window is from begin to begin + Size - instant, and closes when the watermark has passed that and the
	// lateness: at begin + Size + lateness. Its first event is in the history until then.
	open := window.Size + lateness
	events := framework.NewHistory("events", framework.HistoryConfig[T]{Retain: open})
	step := framework.Step{
		Name: name, Kind: "compact", Detail: fmt.Sprintf("every %v", window.Size),
		Hold: window.Size + window.AllowedLateness, States: []framework.State{events},
	}
	within := func(s *framework.Scope, begin time.Time) (framework.View[T], error) {
		return events.Between(s, "", begin, begin.Add(window.Size-instant))
	}
	return framework.AddStep(in, step, func(st *framework.Step, next framework.Next[B]) framework.Next[T] {
		st.OnTimer = func(s *framework.Scope, t framework.Timer) error {
			v, err := within(s, t.At.Add(-open))
			if err != nil {
				return err
			}
			if v.Len() == 0 {
				gone(s, st, "what was in the window")
				return nil
			}
			last := v.At(v.Len() - 1)
			data, err := f(v)
			if err != nil {
				return err
			}
			return next(s, framework.Transform(st, last, data))
		}
		return func(s *framework.Scope, e *framework.Event[T]) error {
			if err := framework.NeedKey(&e.Header); err != nil {
				return err
			}
			begin := e.Time.UTC().Truncate(window.Size)
			if closes := begin.Add(open - instant); s.Passed(closes) {
				late(s, st, &e.Header, closes)
				return nil
			}
			switch added, err := events.Append(s, e, ""); {
			case err != nil:
				return err
			case !added:
				s.Dropped(st)
				return nil
			}
			v, err := within(s, begin)
			if err != nil || v.Len() > 1 { // the first of the window has set the timer
				return err
			}
			return s.SetTimer(st, begin.Add(open), "window", nil)
		}
	})
}
