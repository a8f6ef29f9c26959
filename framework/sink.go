package framework

import (
	"time"
)

// Sink says how events become records of a topic. Its zero value encodes JSON and keeps the event's key.
type Sink[T any] struct {
	// Name names the node; default: the topic.
	Name string
	// Key gives the key that decides the partition; default: the event's.
	Key func(*Event[T]) string
	// Type is the CloudEvents type for events that have none; default: the name of the Go type.
	Type string
	// Codec encodes the payload; default JSON.
	Codec Codec[T]
}

// To adds a sink: the events of the stream are sent to a topic, after the commit that decided them.
func To[T any](in *Stream[T], topic string, sink ...Sink[T]) {
	var c Sink[T]
	if len(sink) > 0 {
		c = sink[0]
	}
	if c.Name == "" {
		c.Name = topic
	}
	p := in.pipeline
	n := p.add("sink", c.Name, in.node)
	if topic == "" {
		p.fault("sink %q: no topic", c.Name)
	}
	n.sink = &sinkNode{topic: topic}
	connect(in, n, writer(c, n))
}

// sinkNode is what the engine knows of a sink, whatever its type.
type sinkNode struct {
	topic    string
	slot     int           // of the topic among those of the stage
	internal bool          // a topic between two stages, which carries watermarks too
	early    time.Duration // how much earlier than the watermark its events may be by the new times given to them
}

// writer makes the Next that encodes events and queues them as outputs of node n.
func writer[T any](c Sink[T], n *node) Next[T] {
	if c.Codec == nil {
		c.Codec = JSON[T]()
	}
	typ := c.Type
	if typ == "" {
		typ = shortName(typeName[T]())
	}
	reuse := isJSON(c.Codec)
	_, asTheyAre := any(c.Codec).(bytesCodec)
	return func(s *Scope, e *Event[T]) (err error) {
		r := s.send(n.sink.slot)
		e.fill(r)
		if c.Key != nil {
			r.Key = c.Key(e)
		}
		if r.Type == "" {
			r.Type = typ
		}
		if r.Source == "" {
			r.Source = s.task.stage.pipeline.name
		}
		plain, ok := any(&e.Data).(*[]byte)
		switch {
		case e.Deleted:
		case reuse && e.raw != nil:
			r.Value = e.raw.Value
		case ok && asTheyAre:
			r.Value = *plain
		default:
			r.Value, err = s.leaving.encode(func(dst []byte) ([]byte, error) { return c.Codec.Append(dst, &e.Data) })
		}
		if r.Value == nil && !e.Deleted {
			r.Value = []byte{} // it is empty, and deletes nothing
		}
		if check := s.task.stage.checks[n.sink.slot]; err == nil && check != nil {
			err = check(r)
		}
		return Permanent(err)
	}
}

func shortName(name string) string {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '.' {
			return name[i+1:]
		}
	}
	return name
}
