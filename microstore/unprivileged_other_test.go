//go:build !linux

package microstore

import (
	"os"
	"testing"
)

func unprivileged(t *testing.T, fn func()) {
	if os.Getuid() == 0 {
		t.Skip("root may write everywhere")
	}
	fn()
}
