package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	fence := "```"
	cases := []struct {
		name, text string
		lines      []int // where the programs start
	}{
		{"a program", "# Title\n\n" + fence + "go\npackage main\n\nfunc main() {}\n" + fence + "\n", []int{4}},
		{"with a comment and a title", fence + "go title=main.go\n// Says hello.\n\npackage main\n" + fence, []int{2}},
		{"tildes", "~~~go\npackage main\n~~~\n", []int{2}},
		{"in a list", "- item\n  " + fence + "go\n  package main\n  " + fence + "\n", []int{3}},
		{"two", fence + "go\npackage main\n" + fence + "\n" + fence + "go\npackage main\n" + fence + "\n", []int{2, 5}},
		{"a fragment", fence + "go\nx := 1\n" + fence + "\n", nil},
		{"another package", fence + "go\npackage orders\n" + fence + "\n", nil},
		{"another language", fence + "text\npackage main\n" + fence + "\n", nil},
		{"golang is not go", fence + "golang\npackage main\n" + fence + "\n", nil},
		{"quoted in a longer fence", fence + "`md\n" + fence + "go\npackage main\n" + fence + "\n" + fence + "`\n", nil},
		{"never closed", fence + "go\npackage main\n", nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := find("page.md", c.text)
			if len(got) != len(c.lines) {
				t.Fatalf("found %+v", got)
			}
			for i, p := range got {
				if p.line != c.lines[i] || !isProgram(p.text) {
					t.Errorf("found %+v", p)
				}
			}
		})
	}
}

func TestRun(t *testing.T) {
	cases := []struct {
		name, program string
		fault         []string // parts of the error; none for a program that is right
	}{
		{"right", "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(1) }\n", nil},
		{"does not compile", "package main\n\nfunc main() { undefinedName() }\n", []string{"page.md:7", "undefinedName"}},
		{"does not parse", "package main\n\nimport fmt\n", []string{"page.md:7"}},
		{"vet complains", "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Printf(\"%d\", \"x\") }\n", []string{"page.md:9", "Printf"}},
		{"imports ours", "package main\n\nimport _ \"example.com/shop/orders\"\n\nfunc main() {}\n", nil},
		{"internal import", "package main\n\nimport _ \"example.com/shop/internal/secret\"\n\nfunc main() {}\n", []string{"page.md:7", "internal"}},
	}
	t.Chdir(module(t))
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			page := filepath.Join(t.TempDir(), "page.md")
			text := "# Title\n\nText.\n```go\n" + c.program + "```\n"
			if err := os.WriteFile(page, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			err := run([]string{filepath.Dir(page)}, &out)
			if len(c.fault) == 0 {
				if err != nil || !strings.Contains(out.String(), "1 programs in 1 documents") {
					t.Errorf("%v, %q", err, &out)
				}
				return
			}
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range c.fault {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("no %q in: %v", part, err)
				}
			}
		})
	}
}

// module writes a small module to a new directory.
func module(t *testing.T) (dir string) {
	dir = t.TempDir()
	for name, text := range map[string]string{
		"go.mod":                    "module example.com/shop\n\ngo 1.26\n",
		"orders/orders.go":          "package orders\n",
		"internal/secret/secret.go": "package secret\n",
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestRunOfNothing(t *testing.T) {
	if err := run([]string{t.TempDir()}, &strings.Builder{}); err != nil {
		t.Error(err)
	}
	if err := run([]string{filepath.Join(t.TempDir(), "none.md")}, &strings.Builder{}); err == nil {
		t.Error("no error for a file that is not there")
	}
}
