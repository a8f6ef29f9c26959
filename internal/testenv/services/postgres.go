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
)

// startPostgres starts the PostgreSQL server whose programs are on the PATH, in a directory of its own.
func startPostgres(ctx context.Context) (r running, err error) {
	initdb, err := exec.LookPath("initdb")
	if err != nil {
		return running{}, errors.New("no initdb on the PATH")
	}
	server, err := exec.LookPath("postgres")
	if err != nil {
		return running{}, errors.New("no postgres on the PATH")
	}
	dir, err := os.MkdirTemp("", "millrace-postgres-")
	if err != nil {
		return running{}, err
	}
	r = running{used: "the postgres on the PATH", stop: func(context.Context) error { return os.RemoveAll(dir) }}
	user, err := unprivileged(dir)
	if err != nil {
		return r, err
	}
	data := filepath.Join(dir, "data")
	command := exec.CommandContext(ctx, initdb, "-D", data, "-U", "millrace", "--auth=trust", "--no-sync", "-E", "UTF8")
	command.Dir, command.SysProcAttr = dir, user
	if out, err := command.CombinedOutput(); err != nil {
		return r, fmt.Errorf("initdb: %w: %s", err, out)
	}
	port, err := freePort()
	if err != nil {
		return r, err
	}
	logs, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return r, err
	}
	defer logs.Close()
	command = exec.Command(server, "-D", data, "-p", strconv.Itoa(port), "-k", dir, "-c", "listen_addresses=127.0.0.1",
		"-c", "wal_level=logical", "-c", "max_connections=200", "-c", "max_prepared_transactions=10", "-c", "fsync=off")
	command.Dir, command.SysProcAttr, command.Stdout, command.Stderr = dir, user, logs, logs
	if err := command.Start(); err != nil {
		return r, fmt.Errorf("postgres: %w", err)
	}
	r.stop = func(context.Context) error {
		// An interrupt is PostgreSQL's fast shutdown: it ends sessions and itself.
		err := command.Process.Signal(os.Interrupt)
		if waited := command.Wait(); err == nil && waited != nil {
			err = waited
		}
		return errors.Join(err, os.RemoveAll(dir))
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if err := postgresHello("millrace", "postgres").until(ctx, address); err != nil {
		text, _ := os.ReadFile(logs.Name())
		return r, fmt.Errorf("postgres: %w: %s", err, text)
	}
	r.address = "postgres://millrace@" + address + "/postgres?sslmode=disable"
	return r, nil
}

// freePort is a port that nobody listened at a moment ago.
func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	return port, listener.Close()
}
