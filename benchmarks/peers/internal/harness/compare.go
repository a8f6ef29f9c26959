package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// comparison is what all runs share.
type comparison struct {
	Config
	broker  *broker
	builder *builder
	machine string
}

// Compare builds the programs of the chosen runs, fills their topics and does them, round after round; each result is
// added to the file at once. A system that cannot run is left out, and told. Results that do not count are an error at
// the end, but for those of systems that were started without their state: there it is what was asked for.
func Compare(ctx context.Context, c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	c = c.WithDefaults()
	cmp, err := open(ctx, c)
	if err != nil {
		return err
	}
	defer cmp.broker.close()
	runs, err := cmp.prepare(ctx)
	if err != nil {
		return err
	}
	for _, pid := range []int{os.Getpid(), c.BrokerPID} {
		if err := confine(ctx, c.Processors, pid); err != nil {
			return err
		}
	}
	var faults []error
	began := time.Now()
	for round := range c.Rounds {
		for _, r := range runs {
			if c.Until > 0 && time.Since(began) > c.Until {
				fmt.Fprintf(c.Log, "the time is over, in round %d of %d before %s\n", round+1, c.Rounds, r)
				return errors.Join(faults...)
			}
			result, err := cmp.one(ctx, r)
			if errors.Is(err, errNoRate) {
				fmt.Fprintf(c.Log, "%s is left out: %v\n", r, err)
				continue
			}
			if err != nil {
				return fmt.Errorf("%s: %w", r, err)
			}
			fmt.Fprintf(c.Log, "%d/%d %s: %s\n", round+1, c.Rounds, r, result.line())
			if !result.OK() && !r.Empty {
				faults = append(faults, fmt.Errorf("%s: %s", r, result.Fault))
			}
			if err := add(c.Results, result); err != nil {
				return err
			}
		}
	}
	return errors.Join(faults...)
}

// Prepare does all of Compare that needs no quiet: it builds the programs and fills the topics.
func Prepare(ctx context.Context, c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	cmp, err := open(ctx, c.WithDefaults())
	if err != nil {
		return err
	}
	defer cmp.broker.close()
	_, err = cmp.prepare(ctx)
	return err
}

func open(ctx context.Context, c Config) (*comparison, error) {
	if _, err := os.Stat(filepath.Join(c.Module, "systems")); err != nil {
		return nil, fmt.Errorf("%q is not the directory benchmarks/peers: %w", c.Module, err)
	}
	for _, dir := range []string{"bin", "logs", "state"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, dir), 0o755); err != nil {
			return nil, err
		}
	}
	b, err := connect(ctx, c.Brokers)
	if err != nil {
		return nil, err
	}
	return &comparison{c, b, &builder{c, map[string]error{}}, machine()}, nil
}

// prepare returns the chosen runs of the systems that can be built, when their input is there.
func (c *comparison) prepare(ctx context.Context) ([]Run, error) {
	var runs []Run
	told := map[string]bool{}
	for _, r := range c.chosen() {
		if _, err := c.builder.command(ctx, r.system()); err != nil {
			if !told[r.System] {
				told[r.System] = true
				fmt.Fprintf(c.Log, "%s is left out: %v\n", r.System, err)
			}
			continue
		}
		runs = append(runs, r)
		if r.Mode != Throughput { // input comes while it runs
			continue
		}
		if err := c.broker.preload(ctx, r.set()); err != nil {
			return nil, fmt.Errorf("input of %s: %w", r, err)
		}
	}
	if len(runs) == 0 {
		return nil, errors.New("nothing to run: no system has the chosen workloads and modes and could be built")
	}
	return runs, nil
}

// machine tells what the results were measured on.
func machine() string {
	model := runtime.GOARCH
	raw, _ := os.ReadFile("/proc/cpuinfo") // not everywhere
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	return fmt.Sprintf("%s, %d processors, %s, %s", model, runtime.NumCPU(), runtime.GOOS, runtime.Version())
}
