package framework

import (
	"github.com/ThreeDotsLabs/watermill/message"
)

// runLane runs a lane's part of the events from..to of a batch, and the timers that are due before each and, at
// the end, up to upTo. An error is fatal.
func (t *task) runLane(lane int, p *prepared, from, to int, upTo int64) error {
	s := t.scopes[lane]
	for i := from; i < to; {
		next, err := t.runEvents(lane, s, p, i, to)
		if err != nil {
			return err
		}
		i = next
	}
	s.order = int32(to)
	return t.fire(s, upTo)
}

// runEvents runs events until one panics, which becomes a fault; so guarding against panics costs nothing an
// event.
func (t *task) runEvents(lane int, s *Scope, p *prepared, from, to int) (next int, err error) {
	i := from
	var start mark
	running := false
	defer func() {
		if !running {
			return // what panics between events is not theirs, but the engine's or a hook's
		}
		if v := recover(); v != nil {
			at := s.at
			s.restore(start)
			s.at = at
			next, err = i+1, t.settle(s, start, panicked(v))
			s.parks = false
		}
	}()
	for ; i < to; i++ {
		if int(p.owner[i]) != lane || p.fate[i] >= fatePassed {
			if p.fate[i] == fateProcessed && int(p.owner[i]) == lane {
				s.counted(p.work.source.node.index, countDuplicate)
			}
			continue
		}
		h := p.arena.header(i)
		s.order = int32(i)
		if s.next <= p.stamps[i] {
			if err := t.fire(s, p.stamps[i]); err != nil {
				return i, err
			}
		}
		s.key, s.header, s.record, s.timer, s.watermark = h.Key, h, &p.records[i], nil, p.stamps[i]
		s.at, s.attempt, s.trail = p.work.source.node.index, 1, s.trail[:0]
		s.counted(s.at, countIn)
		start, running = s.save(), true
		waits := false
		if t.parking != nil && h.Key != "" {
			s.parks = t.parksNow()
			waits, err = s.divert()
		}
		switch {
		case waits || err != nil:
		case p.fate[i] == fateFault:
			err = t.settle(s, start, p.errs[i])
		case t.handlers == nil: // without an allocation
			err = t.attempts(s, start, func() error { return p.arena.run(s, i) })
		default:
			err = t.attempts(s, start, t.runs(lane, s, start, p, i))
		}
		running, s.parks = false, false
		if err != nil {
			return i, err
		}
	}
	return to, nil
}

// runs returns what runs an event, inside the middlewares of its lane.
func (t *task) runs(lane int, s *Scope, start mark, p *prepared, i int) func() error {
	if t.handlers == nil {
		return func() error { return p.arena.run(s, i) }
	}
	s.inner = func() error {
		succeeded := false
		defer func() {
			if !succeeded { // a middleware may try again, or let the failure pass: nothing of it stays
				at := s.at
				s.restore(start)
				s.at = at
			}
		}()
		s.at = start.at
		err := p.arena.run(s, i)
		succeeded = err == nil
		return err
	}
	return func() error {
		msg := ToMessage(&p.records[i]) // anew each time: a middleware may have ended its context
		msg.SetContext(s.ctx)
		_, err := t.handlers[lane](msg)
		return err
	}
}

// handlerOf builds the chain of middlewares around a lane's events.
func handlerOf(s *Scope, middlewares []message.HandlerMiddleware) message.HandlerFunc {
	h := message.HandlerFunc(func(msg *message.Message) ([]*message.Message, error) {
		s.ctx = msg.Context()
		return nil, s.inner()
	})
	for i := len(middlewares) - 1; i >= 0; i-- {
		h = middlewares[i](h)
	}
	return func(msg *message.Message) ([]*message.Message, error) {
		ctx := s.ctx
		defer func() { s.ctx = ctx }()
		return h(msg)
	}
}

// id is the id of what the lane is processing.
func (s *Scope) id() string {
	switch {
	case s.timer != nil:
		return s.timer.ID
	case s.header != nil:
		return s.header.ID()
	}
	return ""
}

func (t *task) node(index int) *node { return t.stage.pipeline.nodes[index] }

func (t *task) nodeName(index int) string { return t.node(index).name }
