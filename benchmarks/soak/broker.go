package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// broker is the Kafka under a schedule.
type broker struct {
	address string
	// container is that of a broker which this program may stop; "" is one of somebody else's.
	container string
}

const (
	image          = "apache/kafka:4.0.0"
	brokerPatience = 3 * time.Minute
)

// ownBroker starts a broker in a container of its own, at a port that stays the same.
func ownBroker(ctx context.Context) (*broker, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	command := []string{"run", "-d", "-p", address + ":9092"}
	for _, setting := range []string{
		"NODE_ID=1", "PROCESS_ROLES=broker,controller", "LISTENERS=PLAINTEXT://0.0.0.0:9092,CONTROLLER://localhost:9080",
		"ADVERTISED_LISTENERS=PLAINTEXT://" + address, "LISTENER_SECURITY_PROTOCOL_MAP=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"CONTROLLER_LISTENER_NAMES=CONTROLLER", "CONTROLLER_QUORUM_VOTERS=1@localhost:9080",
		"OFFSETS_TOPIC_REPLICATION_FACTOR=1", "TRANSACTION_STATE_LOG_REPLICATION_FACTOR=1", "TRANSACTION_STATE_LOG_MIN_ISR=1",
		"GROUP_INITIAL_REBALANCE_DELAY_MS=0", "HEAP_OPTS=-Xms128m -Xmx512m",
	} {
		command = append(command, "-e", "KAFKA_"+setting)
	}
	id, err := docker(ctx, append(command, image)...)
	if err != nil {
		return nil, fmt.Errorf("no broker in a container; give one with -brokers, or leave Kafka out with -kinds %s: %w", embeddedKind, err)
	}
	b := &broker{address: address, container: id}
	if err := b.wait(ctx); err != nil {
		return nil, errors.Join(err, b.remove())
	}
	return b, nil
}

// freeAddress is one of those that systems do not give out by themselves: nobody else takes it while the broker is stopped.
func freeAddress() (string, error) {
	const first, count, attempts = 20_000, 10_000, 100
	for range attempts {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(count)))
		if listener, err := net.Listen("tcp", address); err == nil {
			return address, listener.Close()
		}
	}
	return "", errors.New("no port is free")
}

// docker runs a command and returns what it prints.
func docker(ctx context.Context, args ...string) (string, error) {
	var out, said bytes.Buffer
	command := exec.CommandContext(ctx, "docker", args...)
	command.Stdout, command.Stderr = &out, &said
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", args[0], err, bytes.TrimSpace(said.Bytes()))
	}
	return strings.TrimSpace(out.String()), nil
}

func (b *broker) own() bool { return b.container != "" }

// wait waits until the broker answers.
func (b *broker) wait(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(b.address))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, brokerPatience)
	defer cancel()
	for {
		err := client.Ping(ctx)
		if err == nil {
			return nil
		}
		if pause(ctx, 200*time.Millisecond) != nil {
			return fmt.Errorf("no Kafka answers at %s: %w", b.address, err)
		}
	}
}

// end ends the broker, at once or in good order.
func (b *broker) end(ctx context.Context, do action) error {
	command := []string{"stop", "-t", "60", b.container}
	if do == killBroker {
		command = []string{"kill", "-s", "KILL", b.container}
	}
	_, err := docker(ctx, command...)
	return err
}

func (b *broker) start(ctx context.Context) error {
	if _, err := docker(ctx, "start", b.container); err != nil {
		return err
	}
	return b.wait(ctx)
}

func (b *broker) freeze(ctx context.Context) error {
	_, err := docker(ctx, "pause", b.container)
	return err
}

func (b *broker) thaw(ctx context.Context) error {
	_, err := docker(ctx, "unpause", b.container)
	return err
}

func (b *broker) remove() error {
	if !b.own() {
		return nil
	}
	_, err := docker(context.Background(), "rm", "-f", "-v", b.container)
	return err
}
