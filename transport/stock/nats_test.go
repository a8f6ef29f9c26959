package stock_test

import (
	"testing"

	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/transport/nats"
	"github.com/millrace/millrace/transport/stock"
	"github.com/millrace/millrace/transport/transporttest"
)

func TestNATS(t *testing.T) {
	testPubSub(t, func(t testing.TB) stock.Config {
		return must(t)(nats.PubSub(services.NATS(t)+"?ack_wait=3s", nil))
	}, transporttest.Features{AtOnce: 1, ReturnsLater: true, Slow: true})
}
