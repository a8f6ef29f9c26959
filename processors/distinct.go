package processors

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/framework"
)

// Distinct passes on each event once: one whose id was seen for its key within retain, by event time, is
// counted as a duplicate and ends here. An event so far behind the watermark that its id would have been
// forgotten goes to the dead letters as late. It costs a small write for each event.
func Distinct[T any](in *framework.Stream[T], name string, retain time.Duration) *framework.Stream[T] {
	if retain <= 0 {
		invalid(in.Pipeline(), "distinct", name, fmt.Errorf("retain is %v; it must be positive", retain))
	}
	open := retain + in.Behind()
	seen := framework.NewHistory("seen", framework.HistoryConfig[struct{}]{Retain: open, Codec: nothing{}})
	step := framework.Step{
		Name: name, Kind: "distinct", Detail: fmt.Sprintf("within %v", retain), States: []framework.State{seen},
	}
	return framework.AddStep(in, step, func(st *framework.Step, next framework.Next[T]) framework.Next[T] {
		return func(s *framework.Scope, e *framework.Event[T]) error {
			if err := framework.NeedKey(&e.Header); err != nil {
				return err
			}
			if seen.Expired(s, e.Time) {
				late(s, st, &e.Header, e.Time.Add(open))
				return nil
			}
			added, err := seen.Append(s, framework.NewEvent(e.ID(), e.Key, e.Time, struct{}{}), "")
			if err != nil {
				return err
			}
			if !added {
				s.Dropped(st)
				return nil
			}
			return next(s, e)
		}
	})
}
