package services

import (
	"context"
	"errors"
	"testing"

	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"

	"github.com/millrace/millrace/internal/testenv"
)

// MariaDBServer is a MariaDB server of a test's own, in a container, for tests that stop it.
type MariaDBServer struct {
	// Address is as of MariaDB, and stays the same.
	Address string

	container testcontainers.Container
}

// OwnMariaDB starts a server for one test. Where there is no Docker daemon the test ends with testenv.NotRun.
func OwnMariaDB(t testing.TB) *MariaDBServer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	own := mariaDBContainer
	own.fixed = true
	var r running
	var err error
	for range portAttempts {
		r, err = own.start(ctx)
		if r.stop != nil {
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
				defer cancel()
				if err := r.stop(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		if err == nil || !isTaken(err) {
			break
		}
	}
	if err != nil {
		testenv.NotRun(t, suite(), testenv.MariaDB, err.Error())
	}
	testenv.Report(suite(), testenv.MariaDB, r.used+", to be stopped")
	return &MariaDBServer{r.address, r.container}
}

// Stop ends the server at once, as kill -9 does, so that it has to recover when it starts again.
func (s *MariaDBServer) Stop(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := s.kill(ctx); err != nil {
		t.Fatalf("services: kill a MariaDB server: %v", err)
	}
}

func (s *MariaDBServer) kill(ctx context.Context) error {
	docker, err := testcontainers.NewDockerClientWithOpts(ctx)
	if err != nil {
		return err
	}
	id := s.container.GetContainerID()
	_, err = docker.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: "KILL"})
	if err == nil {
		ended := docker.ContainerWait(ctx, id, client.ContainerWaitOptions{})
		select {
		case <-ended.Result:
		case err = <-ended.Error:
		}
	}
	return errors.Join(err, docker.Close())
}

// Start starts a server that was stopped, and waits until it answers.
func (s *MariaDBServer) Start(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	err := s.container.Start(ctx)
	if err == nil {
		_, err = mariaDBContainer.wait(ctx, s.container)
	}
	if err != nil {
		t.Fatalf("services: start a MariaDB server: %v", err)
	}
}
