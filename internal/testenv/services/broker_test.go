package services_test

import (
	"net"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/testenv/services"
)

// A broker that was killed or paused answers at the same addresses when it goes on.
func TestOwnKafka(t *testing.T) {
	broker := services.OwnKafka(t, services.BrokerConfig{Listeners: map[string]string{"OTHER": "PLAINTEXT"}})
	listens := func(want bool) {
		t.Helper()
		for _, address := range []string{broker.Address, broker.Listeners["OTHER"]} {
			conn, err := net.DialTimeout("tcp", address, 5*time.Second)
			if err == nil {
				err = conn.Close()
			}
			if (err == nil) != want {
				t.Errorf("%s: %v", address, err)
			}
		}
	}
	listens(true)
	broker.Kill(t)
	listens(false)
	broker.Start(t)
	listens(true)
	broker.Pause(t)
	broker.Unpause(t)
	listens(true)
	broker.Pause(t) // and is removed so
}
