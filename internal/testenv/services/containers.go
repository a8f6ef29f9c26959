package services

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	dockercontainer "github.com/moby/moby/api/types/container"
	dockernetwork "github.com/moby/moby/api/types/network"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"
)

// container is a service in a container.
type container struct {
	image   string
	port    string // that it listens at, inside
	env     map[string]string
	command []string // instead of the image's, if any
	address string   // with %s for host and port
	hello   hello
	fixed   bool // outside it has the same port after a stop
	// begin makes a container begin that waits for it; nil where it begins by itself.
	begin func(ctx context.Context, c testcontainers.Container, address string) error
}

var postgresContainer = container{
	image: "postgres:15", port: "5432/tcp",
	env:     map[string]string{"POSTGRES_USER": "millrace", "POSTGRES_PASSWORD": "millrace", "POSTGRES_DB": "millrace"},
	command: []string{"postgres", "-c", "wal_level=logical", "-c", "max_connections=200", "-c", "max_prepared_transactions=10"},
	address: "postgres://millrace:millrace@%s/millrace?sslmode=disable",
	hello:   postgresHello("millrace", "millrace"),
}

var mariaDBContainer = container{
	image: "mariadb:10.11", port: "3306/tcp",
	env: map[string]string{"MARIADB_ROOT_PASSWORD": "millrace", "MARIADB_USER": "millrace",
		"MARIADB_PASSWORD": "millrace", "MARIADB_DATABASE": "millrace"},
	address: "millrace:millrace@tcp(%s)/millrace",
	hello:   hello{}, // it speaks first
}

var redisContainer = container{
	image: "redis:7", port: "6379/tcp",
	address: "redis://%s/0",
	hello:   hello{say: "PING\r\n", hear: "+PONG"},
}

var natsContainer = container{
	image: "nats:2.9", port: "4222/tcp",
	command: []string{"-a", "0.0.0.0", "-js"},
	address: "nats://%s",
	hello:   hello{hear: "INFO"},
}

var rabbitMQContainer = container{
	image: "rabbitmq:3.10", port: "5672/tcp",
	address: "amqp://guest:guest@%s/",
	hello:   hello{say: "AMQP\x00\x00\x09\x01", hear: "\x01"},
}

// kafkaHello is ApiVersions, version 0, of a client without a name; the answer begins with its length.
var kafkaHello = hello{say: "\x00\x00\x00\x0a\x00\x12\x00\x00\x00\x00\x00\x01\xff\xff", hear: "\x00\x00"}

// startKafka starts a broker. It has to know the address that clients see before it begins, so its command is a wait
// for a script that is copied in when the port is known.
func startKafka(ctx context.Context) (running, error) {
	const script = "/tmp/millrace-begin"
	c := container{
		image: kafkaImage, port: "9092/tcp",
		command: []string{"sh", "-c", "until [ -f " + script + " ]; do sleep 0.1; done; exec sh " + script},
		address: "%s",
		hello:   kafkaHello,
		begin: func(ctx context.Context, c testcontainers.Container, address string) error {
			text := strings.ReplaceAll(kafkaScript, "ADDRESS", address)
			// Moved into place, so that what waits does not run half of it.
			if err := c.CopyToContainer(ctx, []byte(text), script+".part", 0o755); err != nil {
				return err
			}
			code, _, err := c.Exec(ctx, []string{"mv", script + ".part", script})
			if err == nil && code != 0 {
				err = fmt.Errorf("mv ended with %d", code)
			}
			return err
		},
	}
	return c.start(ctx)
}

const kafkaScript = `
export KAFKA_NODE_ID=1
export KAFKA_PROCESS_ROLES=broker,controller
export KAFKA_LISTENERS=PLAINTEXT://0.0.0.0:9092,CONTROLLER://localhost:9093
export KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://ADDRESS
export KAFKA_CONTROLLER_LISTENER_NAMES=CONTROLLER
export KAFKA_LISTENER_SECURITY_PROTOCOL_MAP=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
export KAFKA_CONTROLLER_QUORUM_VOTERS=1@localhost:9093
export KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR=1
export KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR=1
export KAFKA_TRANSACTION_STATE_LOG_MIN_ISR=1
export KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS=0
exec /etc/kafka/docker/run
`

// start runs the container until it answers.
func (c container) start(ctx context.Context) (running, error) {
	if err := docker(ctx); err != nil {
		return running{}, err
	}
	request := testcontainers.ContainerRequest{Image: c.image, ExposedPorts: []string{c.port}, Env: c.env, Cmd: c.command}
	if c.fixed {
		request.HostConfigModifier = func(host *dockercontainer.HostConfig) {
			host.PortBindings = dockernetwork.PortMap{
				dockernetwork.MustParsePort(c.port): {{HostPort: strconv.Itoa(freeFixedPort())}},
			}
		}
	}
	started, err := testcontainers.GenericContainer(ctx, testcontainers.GenericContainerRequest{
		ContainerRequest: request, Started: true, Logger: log.NewNoopLogger(),
	})
	r := running{used: "container " + c.image, container: started}
	if started != nil {
		r.stop = func(ctx context.Context) error {
			return started.Terminate(ctx, testcontainers.StopContext(ctx), testcontainers.StopTimeout(0))
		}
	}
	if err != nil {
		return r, fmt.Errorf("container %s: %w", c.image, err)
	}
	address, err := c.wait(ctx, started)
	if err != nil {
		return r, fmt.Errorf("container %s: %w", c.image, err)
	}
	r.address = fmt.Sprintf(c.address, address)
	return r, nil
}

// wait makes the container begin and returns where it listens, once it answers.
func (c container) wait(ctx context.Context, started testcontainers.Container) (string, error) {
	host, err := started.Host(ctx)
	if err != nil {
		return "", err
	}
	port, err := started.MappedPort(ctx, c.port)
	if err != nil {
		return "", err
	}
	if host == "localhost" {
		host = "127.0.0.1" // the port may be another one for IPv6
	}
	address := net.JoinHostPort(host, port.Port())
	if c.begin != nil {
		if err := c.begin(ctx, started, address); err != nil {
			return "", err
		}
	}
	return address, c.hello.until(ctx, address)
}

// docker returns an error unless a Docker daemon answers.
func docker(ctx context.Context) (err error) {
	defer func() {
		if v := recover(); v != nil { // testcontainers panics where it finds no socket
			err = fmt.Errorf("no Docker daemon: %v", v)
		}
	}()
	provider, err := testcontainers.NewDockerProvider(testcontainers.WithLogger(log.NewNoopLogger()))
	if err == nil {
		err = provider.Health(ctx) // closes it
	}
	if err != nil {
		return fmt.Errorf("no Docker daemon: %w", err)
	}
	return nil
}
