package framework_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
)

// cpu is what the process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A join of two topics, whose processing is measured without and with a changelog; then how long another process takes
// to have its state, by reading the topics again and from the changelog.
func BenchmarkChangelog(b *testing.B) {
	for _, logged := range []bool{false, true} {
		b.Run(fmt.Sprint("logged=", logged), func(b *testing.B) {
			broker := framework.NewBroker()
			for _, topic := range []string{"left", "right"} {
				broker.Create(topic, 1)
			}
			broker.Create("paired", 1)
			records := thingRecords(b.N, 5000, time.Second/100)
			for i := range records {
				records[i].Value = fmt.Appendf(nil, `{"n":%d,"text":%q}`, i, noise(i, 200))
			}
			broker.Append("left", records...)
			for i := range records {
				records[i].ID = "right-" + records[i].ID
			}
			broker.Append("right", records...)
			pipeline := func() *framework.Pipeline {
				p, _ := justPairs()
				if logged {
					p.Changelog(framework.Changelog{})
				}
				return p
			}
			run := func(state framework.TaskState) (store *microstore.Store, end func()) {
				store = openStore(b, b.TempDir())
				p := start(b, broker, store, pipeline(), func(c *framework.Config) { c.BatchEvents = 1000 })
				p.member.Refuse = nil
				p.assignAll()
				if state != "" {
					p.awaitState(state, 1)
				}
				return store, p.end
			}
			before := cpu()
			b.ResetTimer()
			_, end := run("")
			for broker.Behind("left", "right") > 0 {
				time.Sleep(time.Millisecond)
			}
			b.StopTimer()
			b.ReportMetric(float64(cpu()-before)/float64(2*b.N), "cpu-ns/event")
			end()
			again := time.Now()
			if logged {
				b.ReportMetric(float64(broker.Bytes("shared.left.changelog", 0))/float64(2*b.N), "log-B/event")
				_, end = run(framework.TaskRestored)
			} else {
				_, end = run(framework.TaskCaughtUp)
			}
			b.ReportMetric(float64(time.Since(again).Nanoseconds())/float64(2*b.N), "takeover-ns/event")
			b.ReportMetric(float64(broker.Bytes("left", 0)+broker.Bytes("right", 0))/float64(2*b.N), "source-B/event")
			end()
		})
	}
}
