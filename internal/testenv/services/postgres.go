package services

import (
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
	user         *syscall.SysProcAttr
	command      *exec.Cmd // nil: not running
}

// OwnPostgres starts a server for one test. Where the programs are not on the PATH the test ends with testenv.NotRun.
func OwnPostgres(t testing.TB) *PostgresServer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s, err := newPostgresServer(ctx)
	if s != nil {
		t.Cleanup(func() {
			if err := s.remove(); err != nil {
				t.Error(err)
			}
		})
	}
	if err == nil {
		err = s.start(ctx)
	}
	if err != nil {
		testenv.NotRun(t, suite(), "a PostgreSQL server to stop", err.Error())
	}
	testenv.Report(suite(), testenv.Postgres, "the postgres on the PATH, to be stopped")
	return s
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
	dir, err := os.MkdirTemp("", "millrace-postgres-")
	if err != nil {
		return nil, err
	}
	s := &PostgresServer{dir: dir, program: program}
	if s.user, err = unprivileged(dir); err != nil {
		return s, err
	}
	command := exec.CommandContext(ctx, initdb, "-D", s.data(), "-U", "millrace", "--auth=trust", "--no-sync", "-E", "UTF8")
	command.Dir, command.SysProcAttr = dir, s.user
	if out, err := command.CombinedOutput(); err != nil {
		return s, fmt.Errorf("initdb: %w: %s", err, out)
	}
	if s.port, err = freePort(); err != nil {
		return s, err
	}
	s.Address = "postgres://millrace@" + s.hostPort() + "/postgres?sslmode=disable"
	return s, nil
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

// remove ends the server in good order and removes its directory. An interrupt is its fast shutdown: it ends sessions
// and itself.
func (s *PostgresServer) remove() error { return errors.Join(s.end(os.Interrupt), os.RemoveAll(s.dir)) }

// freePort is a port that nobody listened at a moment ago.
func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	return port, listener.Close()
}
