package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/millrace/millrace/internal/testenv"
)

func main() {
	code, err := run(os.Args[1:], os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsummary:", err)
	}
	os.Exit(code)
}

// run returns the command's exit code, or 2 where it could not be run.
func run(command []string, stdout, stderr io.Writer) (code int, err error) {
	if len(command) == 0 {
		return 2, errors.New("usage: testsummary COMMAND [ARGUMENT...]")
	}
	dir, err := os.MkdirTemp("", "millrace-summary-")
	if err != nil {
		return 2, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	record := filepath.Join(dir, "record")

	// An interrupt reaches the tests too (they are of one process group): wait for them, then print.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err = execute(ctx, command, record, stdout, stderr)
	if err != nil {
		return 2, err
	}
	lines, err := read(record)
	if err != nil {
		return max(code, 2), err
	}
	return code, write(stdout, lines)
}

func execute(ctx context.Context, command []string, record string, stdout, stderr io.Writer) (int, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, stdout, stderr
	cmd.Env = append(os.Environ(), testenv.SummaryVariable+"="+record)
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil // -1 when a signal ended it
	}
	return 0, err
}
