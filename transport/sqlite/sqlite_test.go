package sqlite

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/transporttest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childVariable); path != "" {
		fmt.Fprintln(os.Stderr, child(path))
		os.Exit(1)
	}
	// glog's flusher is started by a dependency of Badger when it is loaded, and has no end.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

func open(t testing.TB, path string) *Transport {
	t.Helper()
	transport, err := Open(t.Context(), path, Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := transport.Close(); err != nil {
			t.Error(err)
		}
	})
	return transport
}

func TestTransport(t *testing.T) {
	transporttest.Run(t, func(t testing.TB) transporttest.Fixture {
		path := filepath.Join(t.TempDir(), "topics.db")
		at := open(t, path)
		return transporttest.Fixture{Transport: at, Restart: func(t testing.TB) framework.Transport {
			if err := at.Close(); err != nil {
				t.Fatal(err)
			}
			at = open(t, path)
			return at
		}}
	}, transporttest.Features{})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
