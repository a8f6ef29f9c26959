package outbox_test

import (
	"bytes"
	"context"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace/millrace/examples/outbox"
	"github.com/millrace/millrace/internal/testenv/services"
)

// TestMain runs the parts too: the example starts its own program again for each.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "outbox" {
		ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		os.Exit(outbox.Main(ctx, os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(services.Main(m).Run())
}

func TestNothingIsLostOrAppliedTwice(t *testing.T) {
	for _, args := range [][]string{{"-orders", "60"}, {"-orders", "300", "-crash", "-kills", "12"}} {
		check(t, args)
	}
}

// The same where the shop writes to PostgreSQL, of which nothing is left.
func TestShopOnPostgres(t *testing.T) {
	address := services.Postgres(t)
	check(t, []string{"-orders", "200", "-crash", "-kills", "8", "-postgres", address})
}

func check(t *testing.T, args []string) {
	t.Helper()
	var out, errOut bytes.Buffer
	if code := outbox.Main(t.Context(), args, &out, &errOut); code != 0 {
		t.Fatalf("%v: exit code %d: %s", args, code, errOut.String())
	}
	t.Log(out.String())
	if !strings.Contains(out.String(), "lost 0, applied twice 0, without an order 0, out of order 0\n") {
		t.Errorf("%v: %s", args, out.String())
	}
}

func TestBadArguments(t *testing.T) {
	for _, test := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"-orders", "0"}, 2, "at least 1"},
		{[]string{"-part", "nothing", "-state", "x"}, 2, "shop, relay or billing"},
		{[]string{"-part", "shop"}, 2, "with -state"},
		{[]string{"more"}, 2, "no flag"},
		{[]string{"-postgres", "postgres://nobody@127.0.0.1:1/none"}, 1, "-postgres: make a schema"},
		{[]string{"-postgres", "host=127.0.0.1 password=secret"}, 1, "must be like postgres://"},
		{[]string{"-state", t.TempDir()}, 1, "-state"},
		{[]string{"-h"}, 0, "usage: examples outbox [flags]"},
	} {
		var out, errOut bytes.Buffer
		if code := outbox.Main(t.Context(), test.args, &out, &errOut); code != test.code || !strings.Contains(errOut.String(), test.says) {
			t.Errorf("%v: exit code %d: %s", test.args, code, errOut.String())
		}
	}
}
