package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if code, member := isMember(); member {
		os.Exit(code)
	}
	c := config{}
	flag.Uint64Var(&c.seed, "seed", rand.Uint64N(1_000_000), "of the first schedule; the next ones count on")
	flag.DurationVar(&c.time, "for", 10*time.Minute, "begin no schedule after that time")
	flag.IntVar(&c.schedules, "schedules", 0, "run so many schedules, whatever time they take")
	flag.StringVar(&c.kinds, "kinds", "", "only these, of "+strings.Join(kinds, ","))
	flag.StringVar(&c.brokers, "brokers", "", "host:port of a Kafka; it is not stopped. Default: one in a container, which is")
	flag.StringVar(&c.dir, "dir", filepath.Join(os.TempDir(), "millrace-soak"), "for what processes leave; kept of a schedule that fails")
	flag.StringVar(&c.overlay, "set", "", "JSON of settings that are not to be drawn, as {\"Orders\":300}")
	flag.BoolVar(&c.goOn, "go-on", false, "go on after a schedule that fails")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := c.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		stop()
		os.Exit(1)
	}
}

// config is the command line.
type config struct {
	seed                         uint64
	time                         time.Duration
	schedules                    int
	kinds, brokers, dir, overlay string
	goOn                         bool
}

var errBrokenGuarantee = errors.New("a guarantee is broken")

// run runs schedules until it is time to end.
func (c *config) run(ctx context.Context) (err error) {
	among, err := c.among()
	if err != nil {
		return err
	}
	var b *broker
	defer func() {
		if b != nil {
			err = errors.Join(err, b.remove())
		}
	}()
	failed := 0
	for n, began := 0, time.Now(); ctx.Err() == nil; n++ {
		if c.schedules > 0 && n == c.schedules || c.schedules == 0 && time.Since(began) > c.time {
			break
		}
		s, err := drawn(c.seed+uint64(n), among, c.overlay)
		if err != nil {
			return err
		}
		under := b
		if s.Kind == embeddedKind {
			under = nil
		} else if b == nil {
			if b, err = c.broker(ctx); err != nil {
				return err
			}
			under = b
		}
		r, err := run(ctx, s, under, c.dir)
		if err != nil {
			if ctx.Err() != nil {
				return nil // it was interrupted
			}
			return err
		}
		fmt.Println(r.text)
		if len(r.problems) == 0 {
			continue
		}
		c.tell(s.Seed, r)
		if failed++; !c.goOn {
			break
		}
	}
	if failed > 0 {
		return fmt.Errorf("%w by %d schedules", errBrokenGuarantee, failed)
	}
	return nil
}

func (c *config) among() ([]string, error) {
	if c.kinds == "" {
		return kinds, nil
	}
	among := strings.Split(c.kinds, ",")
	for _, kind := range among {
		if !slices.Contains(kinds, kind) {
			return nil, fmt.Errorf("-kinds has %q: it takes %s", kind, strings.Join(kinds, ","))
		}
	}
	return among, nil
}

func (c *config) broker(ctx context.Context) (*broker, error) {
	if c.brokers == "" {
		return ownBroker(ctx)
	}
	b := &broker{address: c.brokers}
	return b, b.wait(ctx)
}

// tell prints what is wrong, and how to run the schedule again.
func (c *config) tell(seed uint64, r result) {
	const shown = 25
	for _, problem := range r.problems[:min(shown, len(r.problems))] {
		fmt.Println("    ", problem)
	}
	if more := len(r.problems) - shown; more > 0 {
		fmt.Printf("     and %d more\n", more)
	}
	again := fmt.Sprintf("go run ./benchmarks/soak -seed %d -schedules 1", seed)
	for name, value := range map[string]string{"kinds": c.kinds, "brokers": c.brokers, "set": c.overlay} {
		if value != "" {
			again += fmt.Sprintf(" -%s '%s'", name, value)
		}
	}
	fmt.Printf("     evidence: %s\n     again:    %s\n", r.dir, again)
}
