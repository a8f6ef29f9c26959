package services

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/testcontainers/testcontainers-go"

	"github.com/millrace/millrace/internal/testenv"
)

// startTimeout bounds how long a service may take to answer.
const startTimeout = 3 * time.Minute

// Postgres returns the address of a PostgreSQL database, "postgres://user:password@host:port/database?…".
func Postgres(t testing.TB) string {
	t.Helper()
	return find(t, testenv.Postgres, postgresContainer.start, startPostgres)
}

// MariaDB returns the address of a MariaDB database as Go's MySQL driver wants it,
// "user:password@tcp(host:port)/database".
func MariaDB(t testing.TB) string {
	t.Helper()
	return find(t, testenv.MariaDB, mariaDBContainer.start)
}

// MariaDBAddress returns the same as "mysql://user:password@host:port/database".
func MariaDBAddress(t testing.TB) string {
	t.Helper()
	return mysqlURL(MariaDB(t))
}

// MySQL returns the address of a database of MySQL itself, as MariaDB does. There is one only where the environment gives it:
// its statements are MariaDB's, so it is not worth a container in each run.
func MySQL(t testing.TB) string {
	t.Helper()
	return find(t, testenv.MySQL)
}

// MySQLAddress returns the same as "mysql://user:password@host:port/database".
func MySQLAddress(t testing.TB) string {
	t.Helper()
	return mysqlURL(MySQL(t))
}

func mysqlURL(address string) string {
	return "mysql://" + strings.NewReplacer("@tcp(", "@", ")/", "/").Replace(address)
}

// Redis returns the address of a Redis server, "redis://host:port/0".
func Redis(t testing.TB) string {
	t.Helper()
	return find(t, testenv.Redis, redisContainer.start)
}

// NATS returns the address of a NATS server with JetStream, "nats://host:port".
func NATS(t testing.TB) string {
	t.Helper()
	return find(t, testenv.NATS, natsContainer.start)
}

// RabbitMQ returns the address of a RabbitMQ server, "amqp://user:password@host:port/".
func RabbitMQ(t testing.TB) string {
	t.Helper()
	return find(t, testenv.RabbitMQ, rabbitMQContainer.start)
}

// Kafka returns the addresses of a Kafka cluster's brokers, "host:port,host:port".
func Kafka(t testing.TB) string {
	t.Helper()
	return find(t, testenv.Kafka, startKafka)
}

// running is a service that was found or started.
type running struct {
	address string
	used    string // for the summary
	stop    func(context.Context) error

	container testcontainers.Container // if it is in one
}

// way is one way to come by a service.
type way func(context.Context) (running, error)

// shared are the services of this test binary: they outlive the tests that asked for them first.
var shared struct {
	sync.Mutex
	services map[string]func() (running, error)
	stops    []func(context.Context) error
}

// find returns the address of the service, which the first caller finds or starts.
func find(t testing.TB, name string, ways ...way) string {
	t.Helper()
	shared.Lock()
	get := shared.services[name]
	if get == nil {
		if shared.services == nil {
			shared.services = map[string]func() (running, error){}
		}
		get = sync.OnceValues(func() (running, error) { return come(name, ways) })
		shared.services[name] = get
	}
	shared.Unlock()
	r, err := get()
	if err != nil {
		testenv.NotRun(t, suite(), name, err.Error())
	}
	testenv.Report(suite(), name, r.used)
	return r.address
}

func come(name string, ways []way) (running, error) {
	if address, ok := testenv.Given(name); ok {
		return running{address: address, used: "the one at MILLRACE_" + strings.ToUpper(name)}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	errs := []error{errors.New("no address in MILLRACE_" + strings.ToUpper(name))}
	for _, try := range ways {
		r, err := try(ctx)
		if r.stop != nil {
			shared.Lock()
			shared.stops = append(shared.stops, r.stop)
			shared.Unlock()
		}
		if err == nil {
			return r, nil
		}
		errs = append(errs, err)
	}
	return running{}, errors.Join(errs...)
}

// suite names the package under test, as "transport/stock".
func suite() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return strings.TrimPrefix(strings.TrimSuffix(info.Path, ".test"), "github.com/millrace/millrace/")
}

// TestMain is what a package's tests are run through.
type TestMain struct{ tests interface{ Run() int } }

// Main wraps the tests of a package, so that the services that they started are stopped at the end.
func Main(tests interface{ Run() int }) TestMain { return TestMain{tests} }

// Run runs the tests and stops what they started.
func (m TestMain) Run() int {
	code := m.tests.Run()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	shared.Lock()
	defer shared.Unlock()
	for _, stop := range shared.stops {
		if err := stop(ctx); err != nil {
			fmt.Println("services: stop:", err)
			code = max(code, 1)
		}
	}
	shared.stops = nil
	return code
}
