package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// check builds and vets the programs as a module of their own, in a workspace with the module of the working
// directory: they see its packages as they are now, and its dependencies in its versions.
func check(programs []program) (err error) {
	if len(programs) == 0 {
		return nil
	}
	dir, err := os.MkdirTemp("", "millrace-doccheck-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := lay(programs, dir); err != nil {
		return err
	}
	// With an output directory, build links too.
	for _, arguments := range [][]string{{"build", "-o", "bin/", "./..."}, {"vet", "./..."}} {
		if output, err := goCommand(dir, arguments...); err != nil {
			return fmt.Errorf("go %s: %w\n%s", arguments[0], err, output)
		}
	}
	return nil
}

// lay writes the module of the programs, and the workspace, to dir.
func lay(programs []program, dir string) error {
	module, err := goCommand("", "list", "-m", "-f", "{{.Dir}}\n{{.GoVersion}}")
	if err != nil {
		return fmt.Errorf("find the module: %w\n%s", err, module)
	}
	root, version, _ := bytes.Cut(module, []byte("\n"))
	files := map[string]string{
		"go.mod":  fmt.Sprintf("module documented.example\n\ngo %s\n", version),
		"go.work": fmt.Sprintf("go %s\n\nuse (\n\t.\n\t%q\n)\n", version, root),
	}
	for i, p := range programs {
		document, err := filepath.Abs(p.document)
		if err != nil {
			return err
		}
		// The line directive makes the go command tell faults by the document's own lines.
		name := filepath.Join(fmt.Sprintf("program%d", i+1), "main.go")
		files[name] = fmt.Sprintf("//line %s:%d\n%s", document, p.line, p.text)
	}
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// goCommand runs the go command; in a directory that lay has filled it finds the workspace by itself.
func goCommand(dir string, arguments ...string) ([]byte, error) {
	cmd := exec.Command("go", arguments...)
	cmd.Dir = dir
	output, err := cmd.CombinedOutput()
	return bytes.TrimSpace(output), err
}
