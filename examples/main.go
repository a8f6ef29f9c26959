package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/millrace/millrace/examples/flights"
	"github.com/millrace/millrace/examples/orders"
	"github.com/millrace/millrace/examples/outbox"
)

const usage = `usage: examples NAME [flags]; -h after a name lists its flags

  flights   a month of New York's flights: which delays knocked on to which
  orders    orders and their payments: which are paid within two hours, and which are not
  outbox    orders in SQLite, sent once they are committed, and billed once; -crash kills its processes
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the first signal ends a run in good order, a second one at once
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	switch args[0] {
	case "flights":
		return flights.Main(ctx, args[1:], os.Stdout, os.Stderr)
	case "orders":
		return orders.Main(ctx, args[1:], os.Stdout, os.Stderr)
	case "outbox":
		return outbox.Main(ctx, args[1:], os.Stdout, os.Stderr)
	case "help", "-h", "-help", "--help":
		fmt.Print(usage)
		return 0
	}
	fmt.Fprintf(os.Stderr, "examples: no example %q; there are: flights, orders, outbox\n", args[0])
	return 2
}
