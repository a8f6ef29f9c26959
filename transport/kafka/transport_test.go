package kafka_test

import (
	"testing"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/kafka"
	"github.com/millrace/millrace/transport/transporttest"
)

func TestTransport(t *testing.T) {
	transporttest.Run(t, func(t testing.TB) transporttest.Fixture {
		config := kafka.Config{Brokers: fake(t).ListenAddrs()}
		return transporttest.Fixture{
			Transport: open(t, config),
			Restart:   func(t testing.TB) framework.Transport { return open(t, config) },
		}
	}, transporttest.Features{})
}
