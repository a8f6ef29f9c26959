package framework

import "time"

// ReKey says how a stream is keyed anew.
type ReKey[T any] struct {
	// Keys gives the new keys of an event: usually one, none to leave the event out, several to send it to
	// each. An empty key is a fault.
	Keys func(*Event[T]) []string
	// Key is Keys for the usual case of exactly one. Give one of the two.
	Key func(*Event[T]) string
	// Time, when not nil, gives the event a new time, at most OutOfOrder earlier than the watermark of the
	// stream so far; earlier ones will be late.
	Time       func(*Event[T]) time.Time
	OutOfOrder time.Duration
	// Codec carries the events between the stages; default JSON.
	Codec Codec[T]
}

// AddReKey ends a stage and begins the next: events go through an internal topic, partitioned by their new
// key, so that the step after it owns that key. With it travels the watermark.
func AddReKey[T any](in *Stream[T], name string, c ReKey[T]) *Stream[T] {
	p := in.pipeline
	if c.Codec == nil {
		c.Codec = JSON[T]()
	}
	if (c.Key == nil) == (c.Keys == nil) {
		p.fault("rekey %q: give either Key or Keys", name)
	}
	n := p.add("rekey", name, in.node)
	topic := p.name + "." + name
	n.sink = &sinkNode{topic: topic, internal: true, early: c.OutOfOrder}
	send := writer(Sink[T]{Codec: c.Codec}, n)
	connect(in, n, func(s *Scope, e *Event[T]) error {
		out := *e
		if c.Time != nil {
			if out.Time = c.Time(e); out.Time.IsZero() {
				return errNoTime
			}
		}
		if c.Key != nil {
			out.Key = c.Key(e)
			if out.Key == "" {
				return Permanent(errNoKey)
			}
			return send(s, &out)
		}
		for _, key := range c.Keys(e) {
			if out.Key = key; key == "" {
				return Permanent(errNoKey)
			}
			if err := send(s, &out); err != nil {
				return err
			}
		}
		return nil
	})

	read := p.add("rekeyed", name+".rekeyed", n)
	out := newStream[T](p, read)
	read.source = &sourceNode{
		topic: topic, internal: n, remember: defaultRemember, tombstones: TombstonesPass,
		reader: &reader[T]{config: Source[T]{Codec: c.Codec}, node: read, out: out.out},
	}
	return out
}
