package orders

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/testenv/services"
)

// The same pipelines over every kind of address: run, and run again, they come to the same counts.
func TestOverAddresses(t *testing.T) {
	files := t.TempDir()
	for name, address := range map[string]func(testing.TB) string{
		"file":     func(testing.TB) string { return "file:" + files },
		"sqlite":   func(testing.TB) string { return "sqlite:" + filepath.Join(files, "topics.db") },
		"kafka":    func(t testing.TB) string { return "kafka://" + services.Kafka(t) + "?replicas=1" },
		"postgres": func(t testing.TB) string { return services.Postgres(t) },
		"mariadb":  func(t testing.TB) string { return services.MariaDBAddress(t) },
		"mysql":    func(t testing.TB) string { return services.MySQLAddress(t) },
		"nats":     func(t testing.TB) string { return services.NATS(t) },
		"redis":    func(t testing.TB) string { return services.Redis(t) },
		"rabbitmq": func(t testing.TB) string { return services.RabbitMQ(t) },
	} {
		t.Run(name, func(t *testing.T) {
			const orders = 60
			dir, prefix := t.TempDir(), fmt.Sprintf("o%d-", time.Now().UnixNano())
			for range 2 {
				got := end(t, "--transport", address(t), "--prefix", prefix, "--state", dir, "--orders", fmt.Sprint(orders))
				if got != answer(orders) {
					t.Error(got)
				}
			}
		})
	}
}
