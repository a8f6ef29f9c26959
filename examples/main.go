package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/millrace/millrace/examples/flights"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		fmt.Println("usage: examples NAME [flags]; -h after a name lists its flags\n\n" +
			"  flights   a month of New York's flights: which delays knocked on to which")
		return 0
	}
	switch args[0] {
	case "flights":
		return flights.Main(ctx, args[1:], os.Stdout, os.Stderr)
	}
	fmt.Fprintf(os.Stderr, "examples: no example %q; there is: flights\n", args[0])
	return 2
}
