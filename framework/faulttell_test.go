package framework_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
	"github.com/millrace/millrace/internal/seldom"
	"github.com/millrace/millrace/processors"
)

// A program that has a logger and no hook hears of dead letters: of the first of each step at once, and of all others when it
// debugs.
func TestFaultsAreInTheLog(t *testing.T) {
	began := time.Now()
	var log bytes.Buffer
	p := framework.NewPipeline("p")
	in := framework.From[thing](p, "in")
	for _, name := range []string{"left", "right"} { // each event fails at the first of its way
		odd := map[string]int{"left": 1, "right": 0}[name]
		mine := processors.Filter(in, "only "+name, func(e *framework.Event[thing]) bool { return e.Data.N%2 == odd })
		framework.To(processors.Map(mine, name, func(*framework.Event[thing]) (thing, error) {
			return thing{}, errors.New("no way")
		}), name+".out")
	}
	d := frameworktest.New(t, frameworktest.Config{Engine: func(c *framework.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}}, p)
	const each = 5
	frameworktest.Send(d, "in", things(2*each, 1, atNoon)...)

	if n := len(d.Faults()); n != 2*each {
		t.Fatalf("%d faults, want %d", n, 2*each)
	}
	most := 1 + int(time.Since(began)/seldom.Every)
	for _, name := range []string{"left", "right"} {
		var warnings, all int
		for line := range strings.Lines(log.String()) {
			if !strings.Contains(line, `msg="an event is in the dead letters" pipeline=p step=`+name+" class=permanent event=e") ||
				!strings.Contains(line, `error="no way"`) {
				continue
			}
			all++
			if strings.Contains(line, "level=WARN") {
				warnings++
			}
		}
		if all != each || warnings < 1 || warnings > most {
			t.Errorf("%s: %d lines of which %d are warnings, want %d of which 1 to %d are", name, all, warnings, each, most)
		}
	}
	if t.Failed() {
		t.Log(log.String())
	}
}

// Tasks of shared partitions come and go by themselves; the log hears of them together.
func TestFaultsOfSharedPartitionsAreInTheLog(t *testing.T) {
	began := time.Now()
	const n = 100
	b := sharedBroker(n)
	b.Create("shared.faults", 1)
	var broken atomic.Bool
	broken.Store(true)
	log := new(logged)
	a := start(t, b, openStore(t, t.TempDir()), checked(&broken), func(c *framework.Config) {
		c.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	a.assignAll()
	awaitAll(t, b, "left")
	a.end()
	const line = `msg="an event is in the dead letters" pipeline=shared step=check class=permanent`
	all, warnings := strings.Count(log.String(), line), strings.Count(log.String(), "level=WARN "+line)
	if _, faults := countIDs(b, "shared.faults"); all != faults || all == 0 {
		t.Errorf("%d lines of %d faults", all, faults)
	}
	if most := 1 + int(time.Since(began)/seldom.Every); warnings < 1 || warnings > most {
		t.Errorf("%d warnings, want 1 to %d", warnings, most)
	}
	if t.Failed() {
		t.Log(log.String())
	}
}
