package stock_test

import (
	"testing"

	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/transport/amqp"
	"github.com/millrace/millrace/transport/stock"
	"github.com/millrace/millrace/transport/transporttest"
)

func TestAMQP(t *testing.T) {
	testPubSub(t, func(t testing.TB) stock.Config {
		return must(t)(amqp.StockConfig(services.RabbitMQ(t), nil))
	}, transporttest.Features{AtOnce: 1, Slow: true})
}
