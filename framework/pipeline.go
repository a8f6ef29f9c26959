package framework

import (
	"fmt"
	"reflect"
	"time"

	"github.com/millrace/millrace/internal/ident"
)

// Pipeline is a value that names sources, steps and sinks and how events flow between them. It is built
// with From, the steps of package processors and To; it can be printed and validated before anything
// runs, and the same value runs in a test as in production.
//
// A pipeline is built by one goroutine and does not change once it is given to a Runner.
type Pipeline struct {
	name    string
	nodes   []*node
	errs    []error
	parking *Parking // nil: keys are not parked

	changelog *Changelog // nil: state is kept once
}

// NewPipeline starts an empty pipeline. The name tells its state from that of other pipelines in the
// same store, and is part of the ids of what it emits: a new name is a new pipeline.
func NewPipeline(name string) *Pipeline {
	p := &Pipeline{name: name}
	if name == "" {
		p.fault("pipeline: no name")
	}
	return p
}

// Name returns the name that the pipeline was made with.
func (p *Pipeline) Name() string { return p.name }

// Next hands an event to what follows a step.
type Next[T any] func(s *Scope, e *Event[T]) error

// Stream is a flow of events of one type between two nodes of a pipeline.
type Stream[T any] struct {
	pipeline *Pipeline
	node     *node
	out      *outlet[T]
}

// Pipeline returns the pipeline that the stream is part of.
func (s *Stream[T]) Pipeline() *Pipeline { return s.pipeline }

// node is one source, step or sink.
type node struct {
	index  int
	name   string
	kind   string
	detail string
	in     []*node
	takes  string // type of the events that come in; empty for a source
	gives  string // type of the events that go out; empty for a sink
	path   uint64 // fingerprint of "pipeline/step"
	step   string // "pipeline/step"

	hold    time.Duration // how far outputs may be behind the watermark
	states  []State
	onTimer func(*Scope, Timer) error
	latest  *node // of whose newest events its states are made, and of no others: Step.LatestOfRight

	source *sourceNode // set for sources, also those of internal topics
	sink   *sinkNode   // set for sinks, also those of internal topics
}

// outlet fans the output of a node out to the steps that take it.
type outlet[T any] struct {
	node      int
	consumers []consumer[T]
}

type consumer[T any] struct {
	node int
	next Next[T]
}

func (o *outlet[T]) emit(s *Scope, e *Event[T]) error {
	s.counted(o.node, countOut)
	at := s.at
	for i := range o.consumers {
		c := &o.consumers[i]
		s.counted(c.node, countIn)
		s.at = c.node
		if err := c.next(s, e); err != nil {
			return err // at stays where it happened
		}
	}
	s.at = at
	return nil
}

func (p *Pipeline) fault(format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf(format, args...))
}

func (p *Pipeline) add(kind, name string, in ...*node) *node {
	n := &node{
		index: len(p.nodes), name: name, kind: kind, in: in,
		path: ident.Fingerprint(p.name, name), step: p.name + "/" + name,
	}
	if name == "" {
		p.fault("%s after %s: no name; every node has one, unique in its pipeline", kind, names(in))
	}
	for _, other := range p.nodes {
		if other.name == name && name != "" {
			p.fault("%s %q: the name is taken by a %s; names are unique in a pipeline", kind, name, other.kind)
		}
	}
	for _, up := range in {
		if up.index >= len(p.nodes) || p.nodes[up.index] != up {
			p.fault("%s %q: its input %q is of another pipeline", kind, name, up.name)
		}
	}
	p.nodes = append(p.nodes, n)
	return n
}

// connect makes next a consumer of the stream in the name of node n.
func connect[T any](in *Stream[T], n *node, next Next[T]) {
	n.takes = typeName[T]()
	in.out.consumers = append(in.out.consumers, consumer[T]{n.index, next})
}

func newStream[T any](p *Pipeline, n *node) *Stream[T] {
	n.gives = typeName[T]()
	return &Stream[T]{pipeline: p, node: n, out: &outlet[T]{node: n.index}}
}

func typeName[T any]() string { return reflect.TypeFor[T]().String() }

func names(nodes []*node) string {
	if len(nodes) == 0 {
		return "the start"
	}
	s := ""
	for i, n := range nodes {
		if i > 0 {
			s += ", "
		}
		s += fmt.Sprintf("%q", n.name)
	}
	return s
}
