package framework

import (
	"errors"
	"slices"
	"time"
)

// Source says how the records of a topic become events. Its zero value decodes JSON and takes key, time
// and id from the transport.
type Source[T any] struct {
	// Name names the node; default: the topic.
	Name string
	// Key gives the event's key; default: the record's. An empty key is a fault. On a topic of several
	// partitions it must be what the topic is partitioned by; where it is not, re-key.
	Key func(T) string
	// Time gives the event's time; default: the record's. A zero time is a fault.
	Time func(T) time.Time
	// ID gives the event's id; default: the record's, or its place in the topic. Two records with one id are
	// the same event twice. Where the topic has no positions an event without an id is a fault.
	ID func(T) string
	// OutOfOrder bounds how much earlier than the latest event of its partition an event may come, by their
	// times. The watermark stays this far behind; events that come later still are late. Default 0: in order.
	OutOfOrder time.Duration
	// Codec decodes the payload; default JSON.
	Codec Codec[T]
	// Types, when not empty, are the event types (ce_type) to take; others are passed over and counted.
	Types []string
	// Remember is how many processed events are known, by ce_source and id, for each partition, where the topic has no
	// positions (TopicInfo.Positioned): one that is delivered again is counted as a duplicate and acknowledged, and
	// does nothing else. It has to be more than what the Pub/Sub may send before it sends something again: its rate
	// times the longest wait for an acknowledgement, or more where it may go back further. Default 250,000, at about
	// 64 bytes of memory each, out of what the store may use, and 16 of disk; less where fewer have come. Topics with
	// positions need none.
	Remember int
	// IgnoreSource passes over events with this source attribute (ce_source): a service's own. Events without
	// a source pass.
	IgnoreSource string
	// Tombstones says what becomes of records without a value, by which a topic of Kafka's that is compacted deletes a key.
	// Default: they are events where nothing but right sides of JoinLatest takes those of the source, as with TombstonesPass;
	// else each is a fault.
	Tombstones Tombstones
}

// Tombstones says what becomes of records without a value.
type Tombstones int

const (
	// TombstonesSkip passes them over, as events of other Types. It is for a stream of what happens, in which a key that is
	// deleted means nothing.
	TombstonesSkip Tombstones = 1 + iota
	// TombstonesPass makes events of them, with Header.Deleted set and a zero Data. They have the key, id and time of the
	// record, since there is nothing that Source.Key, ID and Time could be asked about. Where the source has a Time, such an
	// event does not move the watermark: the times of records may be of another clock.
	//
	// Functions that get the event, as that of Filter, get these too and may look at Deleted. Map and Enrich pass them on as
	// deletions of what they make, without asking. JoinLatest forgets the value of the key, and a sink writes a record without
	// a value. What keeps events, such as a join, makes a fault of them.
	TombstonesPass
)

// errNoValue is of a record without a value on a source that does not say what becomes of it.
var errNoValue = Permanent(errors.New("the record has no value, by which a compacted topic deletes its key; " +
	"say in the source's Tombstones whether to skip such records or to pass them on"))

// From adds a source: the events of a topic. Which transport the topic is on is decided by the Config that
// the pipeline runs with.
func From[T any](p *Pipeline, topic string, source ...Source[T]) *Stream[T] {
	var c Source[T]
	if len(source) > 0 {
		c = source[0]
	}
	if c.Name == "" {
		c.Name = topic
	}
	if c.Codec == nil {
		c.Codec = JSON[T]()
	}
	n := p.add("source", c.Name)
	if topic == "" {
		p.fault("source %q: no topic", c.Name)
	}
	if c.OutOfOrder < 0 {
		p.fault("source %q: OutOfOrder is %v; it cannot be negative", c.Name, c.OutOfOrder)
	}
	if c.Tombstones < 0 || c.Tombstones > TombstonesPass {
		p.fault("source %q: Tombstones is %d; it must be TombstonesSkip or TombstonesPass, or 0 for the default", c.Name, c.Tombstones)
	}
	if c.Remember < 0 {
		p.fault("source %q: Remember is %d; it must be at least 1, or 0 for the default", c.Name, c.Remember)
	}
	if c.Remember == 0 {
		c.Remember = defaultRemember
	}
	out := newStream[T](p, n)
	n.source = &sourceNode{
		topic: topic, outOfOrder: c.OutOfOrder, keyed: c.Key != nil, remember: c.Remember,
		all:        len(c.Types) == 0 && c.IgnoreSource == "" && c.Tombstones != TombstonesSkip,
		tombstones: c.Tombstones,
		reader:     &reader[T]{config: c, node: n, out: out.out},
	}
	return out
}

// sourceNode is what the engine knows of a source, whatever its type.
type sourceNode struct {
	topic      string
	outOfOrder time.Duration
	keyed      bool // the key is computed, so it has to be checked against the partitioning
	all        bool // no record is passed over
	tombstones Tombstones
	remember   int // processed ids, where the topic has no positions
	internal   *node
	reader     recordReader
}

// recordReader makes events of records.
type recordReader interface {
	// arena makes room for the events of a batch.
	arena(n int) arena
}

// arena holds the events of one batch. Different events may be used by different goroutines at once.
type arena interface {
	// decode makes event i from r.
	decode(i int, r *Record, origin *Batch) error
	header(i int) *Header
	// run sends event i into the graph.
	run(s *Scope, i int) error
}

type reader[T any] struct {
	config Source[T]
	node   *node
	out    *outlet[T]
}

type events[T any] struct {
	*reader[T]
	all []Event[T]
}

func (r *reader[T]) arena(n int) arena { return &events[T]{r, make([]Event[T], n)} }

func (a *events[T]) header(i int) *Header { return &a.all[i].Header }

func (a *events[T]) run(s *Scope, i int) error { return a.out.emit(s, &a.all[i]) }

// errPassedOver says that an event is not for this source.
var errPassedOver = errors.New("passed over")

func (a *events[T]) decode(i int, r *Record, origin *Batch) error {
	e, c := &a.all[i], &a.config
	e.fromRecord(r, origin)
	if c.Key != nil {
		e.Key = "" // as long as it is not known
	}
	switch {
	case r.Err != nil:
		return r.Err
	case c.IgnoreSource != "" && r.Source == c.IgnoreSource,
		len(c.Types) > 0 && !slices.Contains(c.Types, r.Type):
		return errPassedOver
	}
	if r.Value == nil && !r.Watermark {
		return a.decodeTombstone(e, r)
	}
	if err := c.Codec.Decode(r, &e.Data); err != nil {
		if ClassOf(err) == ClassFatal { // the codec does not fit the source at all
			return err
		}
		return Permanent(err)
	}
	if isJSON(c.Codec) {
		e.raw = r
	}
	if c.ID != nil {
		e.id = c.ID(e.Data)
	}
	if c.Key != nil {
		if e.Key = c.Key(e.Data); e.Key == "" {
			return Permanent(errNoKey)
		}
	}
	if c.Time != nil {
		if e.Time = c.Time(e.Data); e.Time.IsZero() {
			return errNoTime
		}
	}
	return nil
}

// decodeTombstone makes an event of a record without a value.
func (a *events[T]) decodeTombstone(e *Event[T], r *Record) error {
	switch a.node.source.tombstones {
	case TombstonesSkip:
		return errPassedOver
	case TombstonesPass:
		e.Key, e.Deleted, e.untimed = r.Key, true, a.config.Time != nil
		return nil
	}
	return errNoValue
}

// passTombstones lets a source that has not been told have those records as events that nothing but latest values of keys are
// made from.
func (p *Pipeline) passTombstones() {
	for _, source := range p.nodes {
		if source.source == nil || source.source.tombstones != 0 {
			continue
		}
		read, latest := 0, 0
		for _, n := range p.nodes {
			if slices.Contains(n.in, source) {
				read++
			}
			if n.latest == source && n.in[0] != source { // it is not the left side too
				latest++
			}
		}
		if read > 0 && read == latest {
			source.source.tombstones = TombstonesPass
		}
	}
}
