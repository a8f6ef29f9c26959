package microstore

import (
	"os"
	"runtime"
	"syscall"
	"testing"
)

// unprivileged runs fn with the file permissions of nobody if the test runs as root, who may write everywhere.
func unprivileged(t *testing.T, fn func()) {
	if os.Getuid() == 0 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		check(t, syscall.Setfsuid(65534))
		defer func() { check(t, syscall.Setfsuid(0)) }()
	}
	fn()
}
