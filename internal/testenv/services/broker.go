package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	dockercontainer "github.com/moby/moby/api/types/container"
	dockernetwork "github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"
	"github.com/testcontainers/testcontainers-go/network"

	"github.com/millrace/millrace/internal/testenv"
)

// Broker is a Kafka broker of a test's own, in a container, for tests that stop it. Its addresses and what it keeps
// outlast a stop.
type Broker struct {
	// Address is "host:port" of the listener without encryption and authentication.
	Address string
	// Listeners are the addresses of those of BrokerConfig, by name.
	Listeners map[string]string

	container testcontainers.Container
	docker    *testcontainers.DockerClient
	network   *testcontainers.DockerNetwork // of a cluster; this broker removes it
	down      bool
	paused    bool
}

// BrokerConfig says what is special about a broker.
type BrokerConfig struct {
	// Listeners beside the plain one: security protocols by name, as {"LOGIN": "SASL_PLAINTEXT"}. Names must not hold
	// "SSL", which the image takes for settings of its own.
	Listeners map[string]string
	// Env are settings as the image has them, KAFKA_….
	Env map[string]string
	// Files are put into the container, by path.
	Files map[string][]byte
}

// OwnKafka starts a broker for one test. Where there is no Docker daemon the test ends with testenv.NotRun.
func OwnKafka(t testing.TB, config BrokerConfig) *Broker {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	b, err := newBroker(ctx, config, member{id: 1, of: 1})
	own(t, []*Broker{b}, err)
	return b
}

// OwnKafkaCluster starts brokers that replicate each other's partitions, for one test: three copies of each, of which
// two have to be there.
func OwnKafkaCluster(t testing.TB, brokers int) []*Broker {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	all := make([]*Broker, brokers)
	if err := docker(ctx); err != nil {
		own(t, nil, err)
	}
	link, err := network.New(ctx)
	if err != nil {
		own(t, nil, err)
	}
	starting := make(chan error, brokers)
	for i := range all {
		go func() {
			var err error
			all[i], err = newBroker(ctx, BrokerConfig{Env: map[string]string{
				"KAFKA_DEFAULT_REPLICATION_FACTOR": "3", "KAFKA_MIN_INSYNC_REPLICAS": "2", "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "3",
				"KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "4", "KAFKA_HEAP_OPTS": "-Xms128m -Xmx320m",
			}}, member{id: i + 1, of: brokers, network: link})
			starting <- err
		}()
	}
	var errs []error
	for range all {
		errs = append(errs, <-starting)
	}
	all[0].network = link
	own(t, all, errors.Join(errs...))
	return all
}

// own removes brokers at the end of the test, which is now where they do not run.
func own(t testing.TB, brokers []*Broker, err error) {
	t.Helper()
	t.Cleanup(func() {
		for _, b := range slices.Backward(brokers) { // the network at last
			if err := b.remove(); err != nil {
				t.Error("services: remove a broker:", err)
			}
		}
	})
	if err != nil {
		testenv.NotRun(t, suite(), testenv.Kafka, err.Error())
	}
	testenv.Report(suite(), testenv.Kafka, fmt.Sprintf("container %s, to be stopped", kafkaImage))
}

// member is a broker's place in its cluster.
type member struct {
	id, of  int
	network *testcontainers.DockerNetwork // nil: alone
}

const (
	kafkaImage = "apache/kafka:4.0.0"
	// Ports are chosen from these, which systems do not give out by themselves: nobody else takes one while its broker
	// is stopped.
	firstPort, lastPort = 20_000, 29_999
	portAttempts        = 5
)

// newBroker starts a broker and waits until it answers. What it returns is to be removed, with an error too.
func newBroker(ctx context.Context, config BrokerConfig, m member) (*Broker, error) {
	b := &Broker{Listeners: map[string]string{}}
	if err := docker(ctx); err != nil {
		return b, err
	}
	var err error
	if b.docker, err = testcontainers.NewDockerClientWithOpts(ctx); err != nil {
		return b, err
	}
	for attempt := 1; ; attempt++ {
		if err = b.start(ctx, config, m); err == nil {
			break
		}
		if !isTaken(err) || attempt == portAttempts {
			return b, err
		}
		if err := b.terminate(); err != nil {
			return b, err
		}
	}
	return b, b.wait(ctx)
}

// start makes the container and starts it, on ports that are free now.
func (b *Broker) start(ctx context.Context, config BrokerConfig, m member) error {
	const plain = "PLAINTEXT"
	names := append([]string{plain}, slices.Sorted(maps.Keys(config.Listeners))...)
	host, err := dockerHost(ctx)
	if err != nil {
		return err
	}
	bindings := dockernetwork.PortMap{}
	var listeners, advertised, exposed []string
	protocols := []string{"CONTROLLER:PLAINTEXT", "INTERNAL:PLAINTEXT"}
	for i, name := range names {
		inside, outside, protocol := strconv.Itoa(9092+i)+"/tcp", strconv.Itoa(freeFixedPort()), config.Listeners[name]
		if name == plain {
			protocol = plain
		}
		port, err := dockernetwork.ParsePort(inside)
		if err != nil {
			return err
		}
		bindings[port] = []dockernetwork.PortBinding{{HostPort: outside}}
		exposed = append(exposed, inside)
		address := net.JoinHostPort(host, outside)
		if name == plain {
			b.Address = address
		} else {
			b.Listeners[name] = address
		}
		listeners = append(listeners, fmt.Sprintf("%s://0.0.0.0:%d", name, 9092+i))
		advertised = append(advertised, name+"://"+address)
		protocols = append(protocols, name+":"+protocol)
	}
	me := m.host(m.id)
	env := map[string]string{
		"KAFKA_NODE_ID": strconv.Itoa(m.id), "KAFKA_PROCESS_ROLES": "broker,controller",
		"KAFKA_LISTENERS":                                strings.Join(append(listeners, "CONTROLLER://0.0.0.0:9080", "INTERNAL://0.0.0.0:9081"), ","),
		"KAFKA_ADVERTISED_LISTENERS":                     strings.Join(append(advertised, "INTERNAL://"+me+":9081"), ","),
		"KAFKA_LISTENER_SECURITY_PROTOCOL_MAP":           strings.Join(protocols, ","),
		"KAFKA_CONTROLLER_LISTENER_NAMES":                "CONTROLLER",
		"KAFKA_INTER_BROKER_LISTENER_NAME":               "INTERNAL",
		"KAFKA_CONTROLLER_QUORUM_VOTERS":                 m.voters(),
		"KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR":         "1",
		"KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
		"KAFKA_TRANSACTION_STATE_LOG_MIN_ISR":            "1",
		"KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS":         "0",
		"KAFKA_HEAP_OPTS":                                "-Xms128m -Xmx512m",
	}
	maps.Copy(env, config.Env)
	request := testcontainers.ContainerRequest{
		Image: kafkaImage, ExposedPorts: exposed, Env: env,
		HostConfigModifier: func(host *dockercontainer.HostConfig) { host.PortBindings = bindings },
	}
	if m.network != nil {
		request.Networks = []string{m.network.Name}
		request.NetworkAliases = map[string][]string{m.network.Name: {me}}
	}
	for path, content := range config.Files {
		request.Files = append(request.Files, testcontainers.ContainerFile{
			Reader: bytes.NewReader(content), ContainerFilePath: path, FileMode: 0o644,
		})
	}
	b.container, err = testcontainers.GenericContainer(ctx, testcontainers.GenericContainerRequest{
		ContainerRequest: request, Started: true, Logger: log.NewNoopLogger(),
	})
	if err != nil {
		return fmt.Errorf("container %s: %w", kafkaImage, err)
	}
	return nil
}

func (m member) host(id int) string {
	if m.network == nil {
		return "localhost"
	}
	return fmt.Sprintf("broker-%d", id)
}

func (m member) voters() string {
	var all []string
	for id := 1; id <= m.of; id++ {
		all = append(all, fmt.Sprintf("%d@%s:9080", id, m.host(id)))
	}
	return strings.Join(all, ",")
}

// wait waits until the broker answers.
func (b *Broker) wait(ctx context.Context) error {
	err := kafkaHello.until(ctx, b.Address)
	if err == nil {
		return nil
	}
	if logs, logsErr := b.container.Logs(context.WithoutCancel(ctx)); logsErr == nil {
		text, _ := io.ReadAll(logs)
		err = fmt.Errorf("%w\n%s", err, text[max(0, len(text)-4000):])
	}
	return fmt.Errorf("container %s: %w", kafkaImage, err)
}

// Kill ends the broker at once, as kill -9 does.
func (b *Broker) Kill(t testing.TB) {
	t.Helper()
	b.do(t, "kill", func(ctx context.Context) error {
		_, err := b.docker.ContainerKill(ctx, b.container.GetContainerID(), client.ContainerKillOptions{Signal: "KILL"})
		b.down = err == nil
		return err
	})
}

// Stop ends the broker in good order.
func (b *Broker) Stop(t testing.TB) {
	t.Helper()
	b.do(t, "stop", func(ctx context.Context) error {
		seconds := 60
		_, err := b.docker.ContainerStop(ctx, b.container.GetContainerID(), client.ContainerStopOptions{Timeout: &seconds})
		b.down = err == nil
		return err
	})
}

// Start starts a broker that was stopped, and waits until it answers.
func (b *Broker) Start(t testing.TB) {
	t.Helper()
	b.do(t, "start", func(ctx context.Context) error {
		if _, err := b.docker.ContainerStart(ctx, b.container.GetContainerID(), client.ContainerStartOptions{}); err != nil {
			return err
		}
		b.down = false
		return b.wait(ctx)
	})
}

// Pause stops the broker as it stands: its connections stay, and nobody answers.
func (b *Broker) Pause(t testing.TB) {
	t.Helper()
	b.do(t, "pause", func(ctx context.Context) error {
		for {
			_, err := b.docker.ContainerPause(ctx, b.container.GetContainerID(), client.ContainerPauseOptions{})
			b.paused = err == nil
			busy := err != nil && strings.Contains(err.Error(), "unable to freeze") // in the time that Docker takes for it
			if !busy || ctx.Err() != nil {
				return err
			}
		}
	})
}

// Unpause lets a paused broker go on.
func (b *Broker) Unpause(t testing.TB) {
	t.Helper()
	b.do(t, "unpause", b.unpause)
}

func (b *Broker) unpause(ctx context.Context) error {
	_, err := b.docker.ContainerUnpause(ctx, b.container.GetContainerID(), client.ContainerUnpauseOptions{})
	b.paused = b.paused && err != nil
	return err
}

func (b *Broker) do(t testing.TB, what string, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := f(ctx); err != nil {
		t.Fatalf("services: %s a broker: %v", what, err)
	}
}

func (b *Broker) remove() error {
	if b == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	var errs []error
	if b.paused {
		// Docker says so when it hears of an earlier unpause late. It removes the container all the same.
		if err := b.unpause(ctx); err != nil && !strings.Contains(err.Error(), "is not paused") {
			errs = append(errs, err)
		}
	}
	errs = append(errs, b.terminate())
	if b.network != nil {
		errs = append(errs, b.network.Remove(ctx))
	}
	if b.docker != nil {
		errs = append(errs, b.docker.Close())
	}
	return errors.Join(errs...)
}

// terminate removes the container.
func (b *Broker) terminate() error {
	if b.container == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	c := b.container
	b.container = nil
	return c.Terminate(ctx, testcontainers.StopContext(ctx), testcontainers.StopTimeout(0))
}

// isTaken reports whether somebody else has come to listen at a port meanwhile.
func isTaken(err error) bool {
	return strings.Contains(err.Error(), "already allocated") || strings.Contains(err.Error(), "already in use")
}

// freeFixedPort is a port that nobody listens at.
func freeFixedPort() int {
	for {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		if listener.Close() == nil {
			return port
		}
	}
}

// dockerHost is where the ports of containers are.
func dockerHost(ctx context.Context) (string, error) {
	provider, err := testcontainers.NewDockerProvider(testcontainers.WithLogger(log.NewNoopLogger()))
	if err != nil {
		return "", err
	}
	defer provider.Close()
	host, err := provider.DaemonHost(ctx)
	if host == "localhost" {
		host = "127.0.0.1" // the port may be another one for IPv6
	}
	return host, err
}
