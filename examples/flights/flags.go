package flights

import (
	"embed"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/millrace/millrace/microstore"
)

//go:embed data/*.csv.gz
var month embed.FS

// options are what the command line says.
type options struct {
	inputs     map[string]string // by name
	state, out string
	fresh      bool
	summary    string
	outOfOrder time.Duration
	weatherOut time.Duration
	batch      int
	lanes      int
	partitions int
}

var inputNames = []string{"flights", "weather", "planes", "airlines"}

func parse(args []string, errOut io.Writer) (o options, err error) {
	o.inputs = map[string]string{}
	f := flag.NewFlagSet("examples flights", flag.ContinueOnError)
	f.SetOutput(errOut)
	paths := map[string]*string{}
	for _, name := range inputNames {
		paths[name] = f.String(name, "", name+" `FILE`, .csv or .csv.gz; default: January 2013, which is part of the program")
	}
	f.StringVar(&o.state, "state", filepath.Join("state", "flights"), "`DIR` of the state: topics, histories and positions, all in one database")
	f.StringVar(&o.out, "out", "", "`FILE` for the knock-on delays, one JSON object a line; it is overwritten by a fresh start")
	f.BoolVar(&o.fresh, "fresh", false, "forget the state and start over")
	f.StringVar(&o.summary, "summary", "text", "last line: `text` or json")
	f.DurationVar(&o.outOfOrder, "lateness", 800*time.Hour,
		"how much later than others a flight may come, by scheduled departure: 24h for rows in the order of the source, "+
			"as much as the data spans for shuffled ones")
	f.DurationVar(&o.weatherOut, "weather-lateness", 10000*time.Hour,
		"the same for observations; the file is sorted by airport, then time, so it is as much as the data spans")
	f.IntVar(&o.batch, "batch", 1000, "events in a batch, at most")
	f.IntVar(&o.lanes, "lanes", runtime.GOMAXPROCS(0), fmt.Sprintf("keys of a partition that are processed at the same time, 1 to %d", microstore.Shards))
	f.IntVar(&o.partitions, "partitions", 2, "partitions of the topic between the two stages; it cannot change while there is state")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q; flags begin with --", f.Arg(0))
	}
	if o.summary != "text" && o.summary != "json" {
		return o, fmt.Errorf("--summary is %q; it can be text or json", o.summary)
	}
	for name, path := range paths {
		o.inputs[name] = *path
	}
	return o, nil
}

// unpack puts the month that is part of the program where files can be read, for those inputs that were not given.
func (o *options) unpack() error {
	embedded := map[string]string{
		"flights": "flights-2013-01.csv.gz", "weather": "weather-2013-01.csv.gz",
		"planes": "planes.csv.gz", "airlines": "airlines.csv.gz",
	}
	for name, file := range embedded {
		if o.inputs[name] != "" {
			continue
		}
		content, err := month.ReadFile("data/" + file)
		if err != nil {
			return err
		}
		dir := filepath.Join(o.state, "input")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("state directory: %w; choose another with --state", err)
		}
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return fmt.Errorf("state directory: %w; choose another with --state", err)
		}
		o.inputs[name] = path
	}
	return nil
}
