package framework

import (
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/internal/ident"
)

// Step describes a step to the graph. Package processors makes the steps that most pipelines need; a step
// of one's own is made with AddStep in the same way.
type Step struct {
	// Name is unique in the pipeline: it names metrics, faults and state.
	Name string
	// Kind is the sort of step, "filter".
	Kind string
	// Detail is shown when the graph is printed, "within 2h0m0s".
	Detail string
	// Hold is how far behind the watermark the events that the step emits may be. A join that waits for a
	// partner emits events as old as its window.
	Hold time.Duration
	// States are the histories and tables that the step keeps, by the key of its events.
	States []State
	// OnTimer is called when a timer that the step has set falls due, in the lane of the timer's key.
	//
	// When it fails, there or in a step behind, the fault has what it has read of histories. Resubmitted it gets that again:
	// whatever has expired or come meanwhile, it decides as it did. It does not where it changes a history or table, since
	// what it read then and writes now would undo what others have written since; nor where it read more than 64 ranges,
	// or 256 KiB. Then, as for tables at any time, it reads what there is now.
	OnTimer func(s *Scope, t Timer) error
	// LatestOfRight is for AddStep2. It says that what the step keeps for a key follows from the newest event of right alone,
	// as in JoinLatest: so a topic that right reads has all of it when it is compacted, and the start does not warn of that.
	LatestOfRight bool

	node *node
}

// AddStep adds a step between in and the stream that it returns. wire is called once, now: it gets what
// follows the step and returns what takes the step's events. It runs in lanes: events of one key one
// after the other, different keys at the same time; so it keeps no state of its own but States.
func AddStep[A, B any](in *Stream[A], step Step, wire func(st *Step, next Next[B]) Next[A]) *Stream[B] {
	p := in.pipeline
	n, st := addStep(p, step, in.node)
	out := newStream[B](p, n)
	connect(in, n, wire(st, out.out.emit))
	st.finish()
	return out
}

// AddStep2 adds a step with two inputs, such as a join. Both must be of one stage: read from topics that are
// partitioned alike, or re-keyed to the same topic.
func AddStep2[A, B, C any](left *Stream[A], right *Stream[B], step Step,
	wire func(st *Step, next Next[C]) (Next[A], Next[B])) *Stream[C] {
	p := left.pipeline
	in := []*node{left.node}
	if right.node != left.node {
		in = append(in, right.node)
	}
	n, st := addStep(p, step, in...)
	out := newStream[C](p, n)
	l, r := wire(st, out.out.emit)
	connect(left, n, l)
	connect(right, n, r)
	n.takes = typeName[A]() + ", " + typeName[B]()
	if st.LatestOfRight {
		n.latest = right.node
	}
	st.finish()
	return out
}

// AddMerge adds a step that passes on the events of several streams.
func AddMerge[T any](step Step, in ...*Stream[T]) *Stream[T] {
	if len(in) == 0 {
		panic("framework: merge " + step.Name + ": no streams to merge")
	}
	p := in[0].pipeline
	var nodes []*node
	for _, s := range in {
		nodes = append(nodes, s.node)
	}
	n, st := addStep(p, step, nodes...)
	out := newStream[T](p, n)
	for _, s := range in {
		connect(s, n, out.out.emit)
	}
	st.finish()
	return out
}

// AddPorts adds a step with several outputs of one type, named "step.port".
func AddPorts[A, B any](in *Stream[A], step Step, ports []string,
	wire func(st *Step, next []Next[B]) Next[A]) []*Stream[B] {
	p := in.pipeline
	n, st := addStep(p, step, in.node)
	var outs []*Stream[B]
	var nexts []Next[B]
	for _, port := range ports {
		pn := p.add("port", n.name+"."+port, n)
		pn.takes = typeName[B]()
		out := newStream[B](p, pn)
		outs = append(outs, out)
		nexts = append(nexts, func(s *Scope, e *Event[B]) error {
			s.counted(n.index, countOut)
			s.counted(pn.index, countIn)
			return out.out.emit(s, e)
		})
	}
	connect(in, n, wire(st, nexts))
	n.gives = typeName[B]()
	st.finish()
	return outs
}

func addStep(p *Pipeline, step Step, in ...*node) (*node, *Step) {
	n := p.add(step.Kind, step.Name, in...)
	st := &step
	st.node = n
	return n, st
}

// finish takes over what wire may have set.
func (st *Step) finish() {
	n := st.node
	n.hold, n.detail, n.states, n.onTimer = st.Hold, st.Detail, st.States, st.OnTimer
	for _, state := range n.states {
		state.declare(n)
	}
}

// fingerprint is the start of the path of ids derived by the step.
func (st *Step) fingerprint() ident.Path { return ident.Path(0).Step(st.node.path) }

// Derive makes the event that a step emits because of several others: its id follows from the pipeline, the
// step, the key, the causes' ids and index, which tells apart several events made from the same causes. It is
// of the same key as the event being processed. The key counts because the same events may be in several
// keys, by a re-key to each, and what they make there are different events.
func Derive[T any](s *Scope, st *Step, index int, t time.Time, data T, causes ...*Header) *Event[T] {
	ids := make([]string, len(causes))
	for i, c := range causes {
		ids[i] = c.ID()
	}
	e := &Event[T]{Data: data}
	e.Key, e.Time = s.key, t
	e.Source = st.node.step[:len(st.node.step)-len(st.node.name)-1]
	e.id = ident.Many(st.fingerprint().Key(s.key), index, ids...)
	e.causes = joinCauses(ids)
	e.step = st.node.step
	return e
}

// Transform makes the event that a step makes of one other: same key, time, type and metadata; another id,
// so that what two steps make of one event is told apart. It has data, also where e is Deleted.
func Transform[A, B any](st *Step, e *Event[A], data B) *Event[B] {
	n := &Event[B]{Header: e.Header, Data: data}
	n.path = e.path.Step(st.node.path)
	n.step, n.Deleted = st.node.step, false
	return n
}

// Part makes the index-th of the events that a step splits one into.
func Part[A, B any](st *Step, e *Event[A], index int, data B) *Event[B] {
	n := &Event[B]{Header: e.Header, Data: data}
	cause := e.ID()
	n.Type, n.path, n.Deleted = "", 0, false
	n.id = ident.Many(st.fingerprint(), index, cause)
	n.causes, n.step = cause, st.node.step
	return n
}

func joinCauses(ids []string) string {
	switch len(ids) {
	case 0:
		return ""
	case 1:
		return ids[0]
	}
	n := len(ids)
	for _, id := range ids {
		n += len(id)
	}
	b := make([]byte, 0, n)
	for i, id := range ids {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, id...)
	}
	return string(b)
}

var (
	errNoKey  = errors.New("the event has no key")
	errNoTime = Permanent(errors.New("the event has no time"))
)

// NeedKey is for steps that keep state: an error unless the event has a key.
func NeedKey(h *Header) error {
	if h.Key == "" {
		return Permanent(fmt.Errorf("%w; give its source a Key or re-key it", errNoKey))
	}
	return nil
}
