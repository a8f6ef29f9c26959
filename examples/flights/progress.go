package flights

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/millrace/millrace/transport/file"
)

const (
	barEvery  = 100 * time.Millisecond
	lineEvery = time.Second
)

// showProgress shows how much of the input has been read: a bar on a terminal, a line now and then elsewhere. It
// returns what ends it, which is told whether all has been read.
func showProgress(out io.Writer, files *file.Transport, topics ...string) (stop func(complete bool)) {
	percent := func() int {
		var done, total int64
		for _, topic := range topics {
			d, t := files.Progress(topic)
			done, total = done+d, total+t
		}
		return int(100 * done / max(total, 1))
	}
	show, end, every := lines(out), func() {}, lineEvery
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		show, end = bar(out)
		every = barEvery
	}
	ended := make(chan bool)
	var wait sync.WaitGroup
	wait.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				show(percent())
			case complete := <-ended:
				if complete {
					show(100)
				}
				end()
				return
			}
		}
	})
	return func(complete bool) {
		ended <- complete
		wait.Wait()
	}
}

func lines(out io.Writer) (show func(percent int)) {
	last := -1
	return func(percent int) {
		if percent != last {
			fmt.Fprintf(out, "flights: %d%% of the input read\n", percent)
			last = percent
		}
	}
}

func bar(out io.Writer) (show func(percent int), end func()) {
	b := progressbar.NewOptions(100, progressbar.OptionSetWriter(out), progressbar.OptionSetDescription("flights"),
		progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(true), progressbar.OptionSetWidth(40))
	return func(percent int) { _ = b.Set(percent) }, func() { _ = b.Clear() }
}
