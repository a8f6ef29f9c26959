package outbox

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// options are what the command line says.
type options struct {
	orders int
	crash  bool
	kills  int
	state  string
	part   string
	// postgres is the address of a database for the shop; "": a file.
	postgres string
}

const helpHead = `usage: examples outbox [flags]

A shop writes orders and their events in one transaction, a relay sends the events, and billing makes one invoice for
each: three processes over SQLite files; with -postgres the shop's database is on PostgreSQL. At the end the orders are
compared with the invoices.

`

// deadline bounds a run.
const deadline = 2 * time.Minute

// Main runs the example with command-line arguments and returns its exit code.
func Main(ctx context.Context, args []string, out, errOut io.Writer) int {
	o, err := parse(args, errOut)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if err := run(ctx, o, out); err != nil {
		fmt.Fprintln(errOut, "outbox:", err)
		return 1
	}
	return 0
}

func parse(args []string, errOut io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("outbox", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.Usage = func() {
		fmt.Fprint(errOut, helpHead)
		flags.PrintDefaults()
	}
	flags.IntVar(&o.orders, "orders", 500, "try `N` orders; every tenth is rolled back")
	flags.BoolVar(&o.crash, "crash", false, "kill the processes at random while they run")
	flags.IntVar(&o.kills, "kills", 20, "with -crash, kill a process `N` times")
	flags.StringVar(&o.state, "state", "", "keep the databases in `DIR`, which must not be there yet (default a temporary one)")
	flags.StringVar(&o.postgres, "postgres", "", "the shop is in a schema of its own of the PostgreSQL database at `ADDRESS`, postgres://…")
	flags.StringVar(&o.part, "part", "", "run one `PART` of it: shop, relay or billing (the example starts these itself)")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		err = fmt.Errorf("outbox: %q is no flag; -h lists them", flags.Arg(0))
	case o.orders < 1 || o.kills < 1:
		err = errors.New("outbox: -orders and -kills must be at least 1")
	case o.part != "" && (o.state == "" || parts[o.part] == nil):
		err = fmt.Errorf("outbox: -part must be shop, relay or billing, with -state; it is %q", o.part)
	}
	if err != nil {
		fmt.Fprintln(errOut, err)
	}
	return o, err
}

// parts are the processes.
var parts = map[string]func(context.Context, options) error{"shop": shop, "relay": relay, "billing": billing}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	if o.part != "" {
		return parts[o.part](ctx, o)
	}
	if o.state == "" {
		dir, err := os.MkdirTemp("", "millrace-outbox-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		o.state = filepath.Join(dir, "state")
	}
	if err := os.Mkdir(o.state, 0o700); err != nil {
		return fmt.Errorf("-state: %w", err)
	}
	if o.postgres != "" {
		address, drop, schemaErr := onSchema(ctx, o.postgres)
		if schemaErr != nil {
			return fmt.Errorf("-postgres: %w", schemaErr)
		}
		defer func() { err = errors.Join(err, drop()) }()
		o.postgres = address
	}
	if err := create(ctx, o); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	began := time.Now()
	killed, err := supervise(ctx, o)
	if err != nil {
		return err
	}
	found, err := compare(ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d orders of %d tried, events sent %d times, processes killed %d times, %.1f s\n",
		found.orders, o.orders, found.sent, killed, time.Since(began).Seconds())
	fmt.Fprintf(out, "lost %d, applied twice %d, without an order %d, out of order %d\n",
		found.lost, found.twice, found.without, found.disordered)
	if found.lost+found.twice+found.without+found.disordered > 0 {
		return errors.New("that must not be")
	}
	return nil
}
