package processors

import (
	"fmt"

	"github.com/millrace/millrace/framework"
)

// Case is a way out of a Branch: its name and who takes it. Made with When, or Otherwise itself.
type Case[T any] func() (port string, takes func(*framework.Event[T]) bool)

// When is the way of the events that takes returns true for, unless an earlier case has them.
func When[T any](port string, takes func(*framework.Event[T]) bool) Case[T] {
	return func() (string, func(*framework.Event[T]) bool) { return port, takes }
}

// Otherwise is the way, named "otherwise", of the events that no earlier case has. It is given to Branch as
// it is, without a call.
func Otherwise[T any]() (port string, takes func(*framework.Event[T]) bool) {
	return "otherwise", func(*framework.Event[T]) bool { return true }
}

// Branch sends each event out by the first case that takes it, and by no other. The streams it returns are in
// the order of the cases; their nodes are named "name.port". An event that no case takes ends here.
//
//	streams := processors.Branch(orders, "size", processors.When("big", isBig), processors.Otherwise)
func Branch[T any](in *framework.Stream[T], name string, cases ...Case[T]) []*framework.Stream[T] {
	ports := make([]string, len(cases))
	takes := make([]func(*framework.Event[T]) bool, len(cases))
	for i, c := range cases {
		ports[i], takes[i] = c()
		need(in.Pipeline(), "branch", name, fmt.Sprintf("the function of case %q", ports[i]), takes[i] != nil)
	}
	if len(cases) == 0 {
		in.Pipeline().Invalid(fmt.Errorf("branch %q: no cases", name))
	}
	step := framework.Step{Name: name, Kind: "branch"}
	return framework.AddPorts(in, step, ports, func(_ *framework.Step, next []framework.Next[T]) framework.Next[T] {
		return func(s *framework.Scope, e *framework.Event[T]) error {
			for i, mine := range takes {
				if mine(e) {
					return next[i](s, e)
				}
			}
			return nil
		}
	})
}

// Merge passes on the events of several streams of one stage as one stream. Those of one key stay in the
// order in which they are processed. There must be at least one stream.
func Merge[T any](name string, streams ...*framework.Stream[T]) *framework.Stream[T] {
	return framework.AddMerge(framework.Step{Name: name, Kind: "merge"}, streams...)
}

// ReKey gives each event another key. It ends a stage: the events go through an internal topic to the task
// that owns the new key, so that the steps after it keep their state by that key. An empty key is a fault.
// The event stays the same event with the same id.
//
// A config gives the events a new time, or another codec on their way; its Key and Keys are not used. It
// costs writing the event once and reading it back.
func ReKey[T any](in *framework.Stream[T], name string, key func(*framework.Event[T]) string,
	config ...framework.ReKey[T]) *framework.Stream[T] {
	c := rekeyConfig(config)
	c.Key = key
	return framework.AddReKey(in, name, c)
}

// ReKeyEach is ReKey to any number of keys: the event is sent to each, and ends here where there are none.
func ReKeyEach[T any](in *framework.Stream[T], name string, keys func(*framework.Event[T]) []string,
	config ...framework.ReKey[T]) *framework.Stream[T] {
	c := rekeyConfig(config)
	c.Keys = keys
	return framework.AddReKey(in, name, c)
}

func rekeyConfig[T any](config []framework.ReKey[T]) framework.ReKey[T] {
	var c framework.ReKey[T]
	if len(config) > 0 {
		c = config[0]
	}
	c.Key, c.Keys = nil, nil
	return c
}
