package stock_test

import (
	"testing"

	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/transport/redis"
	"github.com/millrace/millrace/transport/stock"
	"github.com/millrace/millrace/transport/transporttest"
)

func TestRedisStream(t *testing.T) {
	testPubSub(t, func(t testing.TB) stock.Config {
		return must(t)(redis.StockConfig(services.Redis(t)+"?max_idle=500ms", nil))
	}, transporttest.Features{AtOnce: 1, ReturnsLater: true, Slow: true})
}
