package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/millrace/millrace/internal/testenv"
)

// startPostgres starts the PostgreSQL server whose programs are on the PATH, in a directory of its own.
func startPostgres(ctx context.Context) (running, error) {
	s, err := newPostgresServer(ctx)
	if s == nil {
		return running{}, err
	}
	r := running{used: "the postgres on the PATH", stop: func(context.Context) error { return s.remove() }}
	if err == nil {
		err = s.start(ctx)
	}
	r.address = s.Address
	return r, err
}

// PostgresServer is a PostgreSQL server of a test's own, from the programs on the PATH, for tests that stop it.
type PostgresServer struct {
	// Address is as of Postgres, and stays the same.
	Address string

	dir, program string
	port         int
	settings     []string // beside those of all, as "name=value"
	user         *syscall.SysProcAttr
	command      *exec.Cmd // nil: not running
}

// OwnPostgres starts a server for one test. Where the programs are not on the PATH the test ends with testenv.NotRun.
func OwnPostgres(t testing.TB) *PostgresServer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s, err := newPostgresServer(ctx)
	s.removeAfter(t)
	if err == nil {
		err = s.start(ctx)
	}
	if err != nil {
		testenv.NotRun(t, suite(), "a PostgreSQL server to stop", err.Error())
	}
	testenv.Report(suite(), testenv.Postgres, "the postgres on the PATH, to be stopped")
	return s
}

// Standby makes a physical replica of the server, which is stopped for that and started again, and starts it.
func (s *PostgresServer) Standby(t testing.TB) *PostgresServer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	standby, err := s.standby(ctx)
	standby.removeAfter(t)
	if err != nil {
		t.Fatal(err)
	}
	return standby
}

func (s *PostgresServer) standby(ctx context.Context) (*PostgresServer, error) {
	standby, err := placeForPostgres(s.program)
	if err != nil {
		return standby, err
	}
	standby.settings = []string{fmt.Sprintf("primary_conninfo=host=127.0.0.1 port=%d user=millrace", s.port)}
	if err := s.end(os.Interrupt); err != nil {
		return standby, err
	}
	if err := standby.run(ctx, "cp", "-Rp", s.data(), standby.data()); err != nil {
		return standby, err
	}
	if err := standby.run(ctx, "touch", filepath.Join(standby.data(), "standby.signal")); err != nil {
		return standby, err
	}
	return standby, errors.Join(s.start(ctx), standby.start(ctx))
}

// WriteFile puts a file that is the server's alone into its directory, where it looks for pg_hba.conf, server.crt, server.key.
func (s *PostgresServer) WriteFile(t testing.TB, name string, content []byte) {
	t.Helper()
	command := exec.Command("sh", "-c", `umask 077; cat > "$0"`, filepath.Join(s.data(), name))
	command.Dir, command.SysProcAttr, command.Stdin = s.dir, s.user, bytes.NewReader(content)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("write %s: %v: %s", name, err, out)
	}
}

// Stop ends the server: at once, as in a crash, so that it has to recover when it starts again.
func (s *PostgresServer) Stop(t testing.TB) {
	t.Helper()
	if err := s.end(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
}

// Start starts a server that was stopped, and waits until it answers.
func (s *PostgresServer) Start(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := s.start(ctx); err != nil {
		t.Fatal(err)
	}
}

// newPostgresServer makes a server that does not run yet. It returns nil when there is nothing to remove.
func newPostgresServer(ctx context.Context) (*PostgresServer, error) {
	initdb, err := exec.LookPath("initdb")
	if err != nil {
		return nil, errors.New("no initdb on the PATH")
	}
	program, err := exec.LookPath("postgres")
	if err != nil {
		return nil, errors.New("no postgres on the PATH")
	}
	s, err := placeForPostgres(program)
	if err != nil {
		return s, err
	}
	return s, s.run(ctx, initdb, "-D", s.data(), "-U", "millrace", "--auth=trust", "--no-sync", "-E", "UTF8")
}

// placeForPostgres makes the directory of a server, and chooses its port. It returns nil when there is nothing to remove.
func placeForPostgres(program string) (*PostgresServer, error) {
	dir, err := os.MkdirTemp("", "millrace-postgres-")
	if err != nil {
		return nil, err
	}
	s := &PostgresServer{dir: dir, program: program, port: freeFixedPort()} // nobody takes it while the server is stopped
	s.Address = "postgres://millrace@" + s.hostPort() + "/postgres?sslmode=disable"
	s.user, err = unprivileged(dir)
	return s, err
}

// run runs a program as the server's user.
func (s *PostgresServer) run(ctx context.Context, program string, args ...string) error {
	command := exec.CommandContext(ctx, program, args...)
	command.Dir, command.SysProcAttr = s.dir, s.user
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(program), err, out)
	}
	return nil
}

func (s *PostgresServer) data() string { return filepath.Join(s.dir, "data") }
func (s *PostgresServer) hostPort() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port))
}

func (s *PostgresServer) start(ctx context.Context) error {
	logs, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer logs.Close()
	command := exec.Command(s.program, "-D", s.data(), "-p", strconv.Itoa(s.port), "-k", s.dir, "-c", "listen_addresses=127.0.0.1",
		"-c", "wal_level=logical", "-c", "max_connections=200", "-c", "max_prepared_transactions=10", "-c", "fsync=off")
	for _, setting := range s.settings {
		command.Args = append(command.Args, "-c", setting)
	}
	command.Dir, command.SysProcAttr, command.Stdout, command.Stderr = s.dir, s.user, logs, logs
	if err := command.Start(); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	s.command = command
	if err := postgresHello("millrace", "postgres").until(ctx, s.hostPort()); err != nil {
		text, _ := os.ReadFile(logs.Name())
		return fmt.Errorf("postgres: %w: %s", err, text)
	}
	return nil
}

// end signals the server and waits for its end, with which it says what it was asked to do.
func (s *PostgresServer) end(signal os.Signal) error {
	if s.command == nil {
		return nil
	}
	command := s.command
	s.command = nil
	if err := command.Process.Signal(signal); err != nil {
		return err
	}
	err := command.Wait()
	var exit *exec.ExitError
	if signal != os.Interrupt && errors.As(err, &exit) {
		return nil
	}
	return err
}

// removeAfter removes the server at the end of the test.
func (s *PostgresServer) removeAfter(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		if s == nil {
			return
		}
		if err := s.remove(); err != nil {
			t.Error(err)
		}
	})
}

// remove ends the server in good order and removes its directory. An interrupt is its fast shutdown: it ends sessions
// and itself.
func (s *PostgresServer) remove() error { return errors.Join(s.end(os.Interrupt), os.RemoveAll(s.dir)) }
