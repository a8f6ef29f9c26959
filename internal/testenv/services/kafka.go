package services

import (
	"context"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"

	"github.com/millrace/millrace/internal/testenv"
)

// KafkaBroker is a Kafka broker of a test's own, in a container, for tests in which it is away.
type KafkaBroker struct {
	// Address is as of Kafka, and stays the same.
	Address string

	container string
}

// OwnKafka starts a broker for one test. Where no Docker daemon answers the test ends with testenv.NotRun.
func OwnKafka(t testing.TB) *KafkaBroker {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	r, err := startKafka(ctx)
	if r.stop != nil {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := r.stop(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	if err != nil {
		testenv.NotRun(t, suite(), "a Kafka broker to pause", err.Error())
	}
	testenv.Report(suite(), testenv.Kafka, r.used+", to be paused")
	return &KafkaBroker{Address: r.address, container: r.container}
}

// Pause stops the broker's processes where they are: connections stay open, and nothing is answered. It returns what lets
// them go on, which is to be called before the test ends.
func (b *KafkaBroker) Pause(t testing.TB) (resume func()) {
	t.Helper()
	docker, err := testcontainers.NewDockerClientWithOpts(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := docker.ContainerPause(context.Background(), b.container, client.ContainerPauseOptions{}); err != nil {
		t.Fatal(err)
	}
	return func() {
		_, err := docker.ContainerUnpause(context.Background(), b.container, client.ContainerUnpauseOptions{})
		if err != nil {
			t.Error(err)
		}
		if err := docker.Close(); err != nil {
			t.Error(err)
		}
	}
}
