package flights

import (
	"context"
	"io"
	"path/filepath"
	"time"

	"github.com/millrace/millrace/examples/internal/output"
	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/embedded"
	"github.com/millrace/millrace/transport/file"
)

// Topics that the files are, where those of the pipeline are on a transport.
const (
	flightsFile = "file of flights"
	weatherFile = "file of weather"
)

// feed is the pipeline that sends the rows of the files to the topics of a transport. It has a database of its own, so
// that it is a run that begins and ends by itself. Started again, it goes on; a row that is sent twice has the same id.
type feed struct {
	*framework.Runner
	pipeline *framework.Pipeline
	store    *microstore.Store
	local    *embedded.Transport // rows that cannot be read
	files    *file.Transport
	stop     context.CancelFunc
	stopped  context.Context
}

func newFeed(o options, dir string, topics framework.Transport, errOut io.Writer) (f *feed, err error) {
	f = &feed{pipeline: framework.NewPipeline(o.prefix + "flights-feed")}
	flights := framework.From(f.pipeline, flightsFile, flightRows(anyOrder))
	framework.To(flights, o.prefix+FlightsTopic, framework.Sink[Flight]{Name: "sent-" + FlightsTopic, Codec: file.CSV[Flight]()})
	weather := framework.From(f.pipeline, weatherFile, weatherRows(anyOrder))
	framework.To(weather, o.prefix+WeatherTopic, framework.Sink[Weather]{Name: "sent-" + WeatherTopic, Codec: file.CSV[Weather]()})
	if f.files, err = file.New(o.files(false, flightsFile, weatherFile)); err != nil {
		return nil, err
	}
	if f.store, err = microstore.Open(microstore.Config{Dir: filepath.Join(dir, feedName), MemoryBytes: feedMemory}); err != nil {
		return nil, err
	}
	if f.local, err = embedded.New(f.store, embedded.Config{Partitions: 1}); err == nil {
		f.Runner, err = framework.New(framework.Config{
			Store: f.store, Transport: topics, Logger: output.Warnings(errOut),
			// What is read waits for what was sent: so at the end of the files little is left to send, however slow the
			// transport is, and progress is that of sending.
			BatchEvents: min(o.batch, 100), OutboxBytes: 1, StopTimeout: time.Minute,
			Routes: map[string]framework.Transport{flightsFile: f.files, weatherFile: f.files, f.pipeline.DeadLetters(): f.local},
		}, f.pipeline)
	}
	if err != nil {
		_ = f.store.Close()
		return nil, err
	}
	f.stopped, f.stop = context.WithCancel(context.Background())
	return f, nil
}

// feedMemory is enough for a pipeline without state.
const feedMemory = 64 << 20

// run sends what has not been sent, and returns when the transport has taken all of it.
func (f *feed) run(ctx context.Context, errOut io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(f.stopped, cancel)()
	stop := showProgress(errOut, f.files, flightsFile, weatherFile)
	err := f.Run(ctx)
	stop(err == nil && ctx.Err() == nil)
	return err
}

// sent is how many rows of a topic were sent.
func (f *feed) sent(topic string) int64 { return f.Counts(f.pipeline.Name(), "sent-"+topic).In }
