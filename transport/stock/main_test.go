package stock_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/internal/testenv/services"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(services.Main(m),
		// Started when they are loaded, by dependencies of the store and of a Pub/Sub, and without an end.
		goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
		goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"),
		goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"))
}
