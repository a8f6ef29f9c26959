package framework

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// Class says what the engine does about an error of a step. docs/guarantees.md has a table, "When a step fails".
type Class string

const (
	// ClassTransient: tried again in place, with backoff, a bounded number of times.
	ClassTransient Class = "transient"
	// ClassPermanent: the event becomes a fault at once, the rest of its batch goes on.
	ClassPermanent Class = "permanent"
	// ClassFatal: intake stops, nothing is acknowledged, Run returns the error.
	ClassFatal Class = "fatal"
)

type classified struct {
	error
	class Class
}

func (c classified) Unwrap() error { return c.error }

// Transient marks an error as passing: the event is tried again. Nil stays nil.
func Transient(err error) error { return classify(err, ClassTransient) }

// Permanent marks an error as one that trying again does not mend. Nil stays nil.
func Permanent(err error) error { return classify(err, ClassPermanent) }

// Fatal marks an error after which nothing can go on, such as an unusable store. Nil stays nil.
func Fatal(err error) error { return classify(err, ClassFatal) }

func classify(err error, class Class) error {
	if err == nil {
		return nil
	}
	return classified{err, class}
}

// ClassOf tells the class of an error: as it was marked (the outermost mark wins), else transient for
// time-outs and broken connections, else permanent. This is the one place where that is decided.
func ClassOf(err error) Class {
	if class, ok := marked(err); ok {
		return class
	}
	var network net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed),
		errors.As(err, &network):
		return ClassTransient
	}
	return ClassPermanent
}

// marked is the class that an error was marked with, if it was.
func marked(err error) (Class, bool) {
	var c classified
	ok := errors.As(err, &c)
	return c.class, ok
}
