package processors

import (
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/framework"
)

// ErrLate is wrapped by the errors of late events: they came when the windows that they belong to had closed.
// They are in the dead-letter topic, with the class late.
var ErrLate = errors.New("the event is late")

// Window says which events of a join are partners by their times, and for how long a partner is waited for.
// Both bounds of a window are inside.
type Window struct {
	// Within makes partners of events that are at most so far apart.
	Within time.Duration
	// Before and After, instead of Within, bound how much earlier and how much later than the left event the
	// right one may be.
	Before, After time.Duration
	// AllowedLateness is how far behind the watermark events may come and still find all their partners;
	// default 0. The watermark itself is behind the latest event by the source's OutOfOrder.
	AllowedLateness time.Duration
	// MaxCount and MaxBytes bound what is kept of each side for a key and the value that it is joined by; the newest
	// stay. Default 100,000 events, and no bound by bytes; a bound by bytes costs a look at each of them for
	// every event. An event that is pushed out can find no more partners: a side whose lonely events are passed on
	// passes it on as alone, if it is, and it is counted (Counts.Overflowed).
	MaxCount int
	MaxBytes int64
}

// defaultMaxCount bounds a side of a join: enough that no honest key comes near it, little enough that one that runs wild
// does not fill the memory.
const defaultMaxCount = 100_000

func (w Window) maxCount() int {
	if w.MaxCount == 0 {
		return defaultMaxCount
	}
	return w.MaxCount
}

func (w Window) span() (before, after time.Duration) {
	if w.Within != 0 {
		return w.Within, w.Within
	}
	return w.Before, w.After
}

func (w Window) validate() error {
	var errs []error
	negative := func(name string, d time.Duration) {
		if d < 0 {
			errs = append(errs, fmt.Errorf("%s is %v; it cannot be negative", name, d))
		}
	}
	negative("Within", w.Within)
	negative("Before", w.Before)
	negative("After", w.After)
	negative("AllowedLateness", w.AllowedLateness)
	if w.MaxCount < 0 || w.MaxBytes < 0 {
		errs = append(errs, errors.New("MaxCount and MaxBytes cannot be negative"))
	}
	switch {
	case w.Within != 0 && (w.Before != 0 || w.After != 0):
		errs = append(errs, errors.New("give either Within or Before and After"))
	case w.Within == 0 && w.Before == 0 && w.After == 0:
		errs = append(errs, errors.New("no window: Within, Before and After are all zero"))
	}
	return errors.Join(errs...)
}

func (w Window) String() string {
	s := fmt.Sprintf("within %v", w.Within)
	if w.Within == 0 {
		s = fmt.Sprintf("from %v before to %v after", w.Before, w.After)
	}
	if w.AllowedLateness > 0 {
		s += fmt.Sprintf(", %v late", w.AllowedLateness)
	}
	return s
}

// instant is the smallest step of event time. What is due "when the watermark has passed t" is due at
// t + instant: while the watermark is t, events of time t may still come.
const instant = time.Nanosecond

// late sends an event that came after its time to the dead letters.
func late(s *framework.Scope, st *framework.Step, h *framework.Header, closed time.Time) {
	s.Late(st, h, fmt.Errorf("%w: its window closed at %s, the watermark is %s", ErrLate,
		closed.Format(time.RFC3339Nano), s.Watermark().Format(time.RFC3339Nano)))
}

// gone sends a timer to the dead letters that runs so long after its time that what it was set for is kept no longer. An
// error would park its key for good: it would fail each time that it is resubmitted.
func gone(s *framework.Scope, st *framework.Step, what string) {
	s.Late(st, nil, fmt.Errorf("%w: %s is kept no longer: its key was parked for longer than Parking.Hold, or the timer had failed "+
		"and its dead letter has not what it had read", ErrLate, what))
}

// invalid reports what is wrong with the configuration of a step, if anything.
func invalid(p *framework.Pipeline, kind, name string, err error) {
	if err != nil {
		p.Invalid(fmt.Errorf("%s %q: %w", kind, name, err))
	}
}

// need reports a function, or another value that a step calls, that it was not given: else each event would be a fault.
func need(p *framework.Pipeline, kind, name, what string, given bool) {
	if !given {
		invalid(p, kind, name, errors.New(what+" is nil"))
	}
}

// matchOf returns the value that an event is joined by within its key: "" without a function. An event that
// has none does not quietly meet all the others that have none.
func matchOf[T any](by func(T) string, e *framework.Event[T]) (string, error) {
	if by == nil {
		return "", nil
	}
	match := by(e.Data)
	if match == "" {
		return "", framework.Permanent(errors.New("the value to join by is empty"))
	}
	return match, nil
}
