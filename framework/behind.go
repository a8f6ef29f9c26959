package framework

import "time"

// Behind is how far behind the watermark of its stage the events of the stream may be, without being late: what
// the steps before it hold back together. A step with a window allows so much more lateness than its user
// asks for, or the events that a join holds back would be late for the step after it.
func (s *Stream[T]) Behind() time.Duration { return behind(s.node) }

// Invalid reports that a step is not set up right, for Validate to return with everything else that is wrong.
func (p *Pipeline) Invalid(err error) { p.errs = append(p.errs, err) }
