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

// showProgress shows how much of the input has been read: a bar on a terminal, a line now and then elsewhere. It
// returns what ends it.
func showProgress(out io.Writer, files *file.Transport, quiet bool) (stop func()) {
	if quiet {
		return func() {}
	}
	read := func() (done, total int64) {
		for _, topic := range []string{FlightsTopic, WeatherTopic} {
			d, t := files.Progress(topic)
			done, total = done+d, total+t
		}
		return done, total
	}
	show, every := lines(out, read), 2*time.Second
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		show, every = bar(out, read), 100*time.Millisecond
	}
	ended := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				show(false)
			case <-ended:
				show(true)
				return
			}
		}
	})
	return func() {
		close(ended)
		wait.Wait()
	}
}

func lines(out io.Writer, read func() (done, total int64)) func(last bool) {
	return func(bool) {
		if done, total := read(); total > 0 {
			fmt.Fprintf(out, "flights: %d%% of the input read\n", 100*done/total)
		}
	}
}

func bar(out io.Writer, read func() (done, total int64)) func(last bool) {
	var b *progressbar.ProgressBar
	return func(last bool) {
		done, total := read()
		if total == 0 {
			return
		}
		if b == nil {
			b = progressbar.NewOptions64(total, progressbar.OptionSetWriter(out), progressbar.OptionShowBytes(true),
				progressbar.OptionSetDescription("flights"), progressbar.OptionClearOnFinish())
		}
		_ = b.Set64(done)
		if last {
			_ = b.Finish()
		}
	}
}
