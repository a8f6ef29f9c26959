package stock_test

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/transport/sql"
	"github.com/millrace/millrace/transport/stock"
	"github.com/millrace/millrace/transport/transporttest"
)

func overSQL(t testing.TB, address string) stock.Config {
	separator := "?"
	if strings.Contains(address, "?") {
		separator = "&"
	}
	config, db, err := sql.StockConfig(address+separator+"poll=20ms", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return config
}

func TestPostgres(t *testing.T) {
	testPubSub(t, func(t testing.TB) stock.Config {
		return overSQL(t, services.Postgres(t))
	}, transporttest.Features{AtOnce: 1, Slow: true})
}

func TestMySQL(t *testing.T) {
	testPubSub(t, func(t testing.TB) stock.Config {
		return overSQL(t, services.MySQLAddress(t))
	}, transporttest.Features{AtOnce: 1, Slow: true})
}

func TestMariaDB(t *testing.T) {
	testPubSub(t, func(t testing.TB) stock.Config {
		return overSQL(t, services.MariaDBAddress(t))
	}, transporttest.Features{AtOnce: 1, Slow: true})
}
