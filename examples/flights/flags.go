package flights

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/millrace/millrace/examples/internal/address"
	"github.com/millrace/millrace/microstore"
)

// options are what the command line says.
type options struct {
	inputs      map[string]string // by name; "" is the file that is part of the program
	state, out  string
	fresh       bool
	summary     string
	transport   string        // "" for none: files are the sources
	wait        time.Duration // for a broker; 0: as long as the transport does
	prefix      string
	lateness    time.Duration // of flights
	weatherLate time.Duration
	batch       int
	lanes       int
	partitions  int
}

// StateVariable names the environment variable with the directory in which the default of --state lies.
const StateVariable = address.StateVariable

const (
	// anyOrder is more than a year: enough for every order of a file.
	anyOrder      = 10000 * time.Hour
	maxPartitions = 256
)

// usageError is what is wrong with the command line itself.
type usageError struct{ error }

func parse(args []string) (options, error) {
	o := options{inputs: map[string]string{}}
	f, paths := o.flags()
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, usageError{fmt.Errorf("%w; -h lists the flags", err)}
	}
	for name, path := range paths {
		o.inputs[name] = *path
	}
	named := false
	f.Visit(func(one *flag.Flag) { named = named || one.Name == "state" })
	if !named && o.transport != "" {
		o.state = address.State("flights", o.scheme(), o.prefix)
	}
	o.fresh = o.fresh || o.scheme() == "memory" // its topics are gone at the end of a run
	if err := o.validate(f.Args()); err != nil {
		return o, usageError{err}
	}
	return o, nil
}

// flags binds the flags to the options, but for the inputs' paths, which it returns by name.
func (o *options) flags() (f *flag.FlagSet, paths map[string]*string) {
	f, paths = flag.NewFlagSet("examples flights", flag.ContinueOnError), map[string]*string{}
	f.SetOutput(io.Discard)
	for _, name := range inputNames {
		paths[name] = f.String(name, "", name+" from `FILE`, .csv or .csv.gz")
	}
	f.StringVar(&o.state, "state", address.State("flights", "", ""),
		"keep topics, histories and positions in `DIR`, in one database; with --transport its default\n\tis named after that and --prefix")
	f.StringVar(&o.transport, "transport", "",
		"send the files to topics at `ADDRESS` first, and run over these:\n\t"+address.Forms)
	address.WaitFlag(f, &o.wait)
	f.StringVar(&o.prefix, "prefix", "", "put `NAME` before the names of the topics there, for a run of its own")
	f.StringVar(&o.out, "out", "", "write the knock-on delays to `FILE`, one JSON object a line; what it held goes.\n\tWith --transport at the end")
	f.BoolVar(&o.fresh, "fresh", false, "forget the state and start over")
	f.StringVar(&o.summary, "summary", "text", "`FORM` of the last line: text, or json")
	f.DurationVar(&o.lateness, "lateness", anyOrder,
		"how far behind others, in `TIME` by schedule, a flight may come: 24h does for rows by day")
	f.DurationVar(&o.weatherLate, "weather-lateness", anyOrder,
		"the same `TIME` for weather, which is sorted by airport first")
	f.IntVar(&o.batch, "batch", 1000, "process up to `N` events in a batch")
	f.IntVar(&o.lanes, "lanes", min(runtime.GOMAXPROCS(0), microstore.Shards),
		fmt.Sprintf("process `N` keys of a partition at a time, up to %d", microstore.Shards))
	f.IntVar(&o.partitions, "partitions", 2, "split the topic between the two stages into `N`; fixed while there is state")
	return f, paths
}

// validate reports all that is wrong.
func (o *options) validate(rest []string) error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	between := func(name string, n, most int) {
		switch {
		case n >= 1 && (most == 0 || n <= most):
		case most == 0:
			add("--%s is %d; it must be at least 1", name, n)
		default:
			add("--%s is %d; it must be 1 to %d", name, n, most)
		}
	}
	if len(rest) > 0 {
		add("unexpected argument %q; flags begin with --", rest[0])
	}
	if o.state == "" {
		add("--state is empty; it names a directory")
	}
	if transport, err := address.With(o.transport, o.wait); err != nil {
		errs = append(errs, err)
	} else {
		o.transport = transport
	}
	if o.prefix != "" && o.transport == "" {
		add("--prefix is for the topics of --transport, which is not given")
	}
	if most := 100 * 365 * 24 * time.Hour; o.transport != "" && max(o.lateness, o.weatherLate) > most {
		add("--lateness or --weather-lateness is over %v, which is more than event time has room for", most)
	}
	if o.summary != "text" && o.summary != "json" {
		add("--summary is %q; it can be text or json", o.summary)
	}
	between("batch", o.batch, 0)
	between("lanes", o.lanes, microstore.Shards)
	between("partitions", o.partitions, maxPartitions)
	if o.lateness < 0 {
		add("--lateness is %v; it cannot be negative", o.lateness)
	}
	if o.weatherLate < 0 {
		add("--weather-lateness is %v; it cannot be negative", o.weatherLate)
	}
	return errors.Join(errs...)
}

// scheme says what kind of transport the topics are on; "" for none.
func (o options) scheme() string {
	scheme, _, _ := strings.Cut(o.transport, ":")
	return scheme
}

const helpHead = `usage: examples flights [flags]

Finds the late departures of a plane that knocked on to its next flights, and what the weather was. Without
files of yours, it takes the month that is part of the program: New York, January 2013.

It goes on where it was when it is interrupted, by Ctrl-C or kill -9, and run again.

`

const helpTail = `
The default of --state lies in $` + StateVariable + `, where that is set.
`

func help(out io.Writer) error {
	var o options
	f, _ := o.flags()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, helpHead)
	f.VisitAll(func(one *flag.Flag) {
		value, text := flag.UnquoteUsage(one)
		if one.DefValue != "" && one.DefValue != "false" && one.DefValue != "0s" {
			text += " (" + strings.TrimSuffix(one.DefValue, "0m0s") + ")"
		}
		fmt.Fprintf(w, "  --%s %s\t%s\n", one.Name, value, text)
	})
	fmt.Fprint(w, helpTail)
	return w.Flush()
}
