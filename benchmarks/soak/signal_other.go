//go:build !unix

package main

import "syscall"

// There are none here: to send them is an error.
const (
	stopSignal     = syscall.Signal(-1)
	continueSignal = syscall.Signal(-1)
)
