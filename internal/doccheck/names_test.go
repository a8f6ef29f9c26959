package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A test that a page names has to be there, and so has a file that it links to.
func TestStale(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for name, text := range map[string]string{
		"orders_test.go": "package orders\n\nfunc TestOrders(t *testing.T) {}\n\nfunc BenchmarkOrders(b *testing.B) {}\n",
		"docs/design.md": "# Design\n",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests, err := declaredTests()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join([]string{
		"`TestOrders`, `TestOrders/paid`, `BenchmarkOrders`, `go test -run TestName`", "",
		"`TestOrdersOnce` (orders), `TestOrders`",
		"[design](design.md#words), [web](https://example.com/x), [here](#words), [up](../orders_test.go)",
		"[gone](gone.md)",
	}, "\n")
	want := []string{
		"docs/page.md:3: there is no test TestOrdersOnce: name the one that shows this",
		"docs/page.md:5: the link leads to gone.md, which is not there",
	}
	if got := stale("docs/page.md", text, tests); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
