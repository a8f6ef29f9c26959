package orders

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/millrace/millrace/examples/internal/address"
)

// options are what the command line says.
type options struct {
	transport, prefix, state string
	orders                   int
	fresh, follow, changelog bool
	wait                     time.Duration
}

const helpHead = `usage: examples orders [flags]

Joins orders with their payments: which are paid within two hours, and which are not. It makes both, and goes on where
it was when it is interrupted, by Ctrl-C or kill -9, and run again.

`

const helpTail = `
The default of --state lies in $MILLRACE_STATE, where that is set.
`

func parse(args []string, out io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("examples orders", flag.ContinueOnError)
	f.SetOutput(out)
	f.Usage = func() {
		fmt.Fprint(out, helpHead)
		f.PrintDefaults()
		fmt.Fprint(out, helpTail)
	}
	f.StringVar(&o.transport, "transport", address.Default, "`ADDRESS` of the topics: "+address.Forms)
	f.StringVar(&o.prefix, "prefix", "", "put `NAME` before the names of the topics, for a run of its own")
	f.StringVar(&o.state, "state", "", "keep the state in `DIR` (default state/orders, and one named after --transport and --prefix\n"+
		"where they are given, such as state/orders-kafka-try1)")
	f.IntVar(&o.orders, "orders", 20_000, "make `N` orders; 0: only process what others send")
	f.BoolVar(&o.fresh, "fresh", false, "forget the state and start over; topics elsewhere stay as they are")
	f.BoolVar(&o.follow, "follow", false, "do not end when every order is decided")
	f.BoolVar(&o.changelog, "changelog", false, "keep the state in topics too, so that Kafka topics need not keep what is processed; all processes or none")
	address.WaitFlag(f, &o.wait)
	if err := f.Parse(args); err != nil {
		return o, err
	}
	named := false
	f.Visit(func(one *flag.Flag) { named = named || one.Name == "state" })
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q; flags begin with --", f.Arg(0))
	case o.orders < 0:
		return o, fmt.Errorf("--orders is %d; it cannot be negative", o.orders)
	case o.changelog && o.scheme() != "kafka":
		return o, fmt.Errorf("--changelog is for kafka: addresses, and this one is of %s: topics", o.scheme())
	case named && o.state == "":
		return o, errors.New("--state is empty; it names a directory")
	case !named:
		scheme := o.scheme()
		if scheme+":" == address.Default && strings.Trim(o.prefix, ".-_") == "" {
			scheme = ""
		}
		o.state = address.State("orders", scheme, o.prefix)
	}
	o.follow = o.follow || o.orders == 0
	var err error
	o.transport, err = address.With(o.transport, o.wait)
	return o, err
}

// scheme says what kind of transport the topics are on.
func (o options) scheme() string {
	scheme, _, _ := strings.Cut(o.transport, ":")
	return scheme
}
