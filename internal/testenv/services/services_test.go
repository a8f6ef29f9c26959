package services_test

import (
	"net"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/internal/testenv/services"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(services.Main(m)) }

// What is found listens, and is the same for everybody who asks.
func TestServices(t *testing.T) {
	for name, find := range map[string]func(testing.TB) string{
		"postgres": services.Postgres, "mariadb": services.MariaDB, "mysql": services.MySQL, "redis": services.Redis,
		"nats": services.NATS, "rabbitmq": services.RabbitMQ, "kafka": services.Kafka,
	} {
		t.Run(name, func(t *testing.T) {
			address := find(t)
			t.Log(address)
			if again := find(t); again != address {
				t.Errorf("asked again: %s", again)
			}
			conn, err := net.Dial("tcp", hostOf(t, address))
			if err != nil {
				t.Fatal(err)
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// hostOf is the "host:port" of an address, of the first where there are several.
func hostOf(t *testing.T, address string) string {
	t.Helper()
	address, _, _ = strings.Cut(address, ",")
	if _, rest, ok := strings.Cut(address, "tcp("); ok {
		host, _, _ := strings.Cut(rest, ")")
		return host
	}
	if !strings.Contains(address, "://") {
		return address
	}
	parsed, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Host
}
