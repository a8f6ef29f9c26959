package sqlite

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/address"
)

// Config of a Transport. Its zero value is the default.
type Config struct {
	// Partitions of a topic that is made without saying how many. Default 4.
	Partitions int
	// PollInterval is how often a reader that has nothing to read looks whether another process has written something.
	// Default 100 ms.
	PollInterval time.Duration
	// BusyTimeout is how long a writer waits for others before that is an error. Default 10 s.
	BusyTimeout time.Duration
}

// WithDefaults returns a copy with the defaults filled in.
func (c Config) WithDefaults() Config {
	if c.Partitions == 0 {
		c.Partitions = 4
	}
	if c.PollInterval == 0 {
		c.PollInterval = 100 * time.Millisecond
	}
	if c.BusyTimeout == 0 {
		c.BusyTimeout = 10 * time.Second
	}
	return c
}

// Validate names every field that cannot be used.
func (c Config) Validate() error {
	var faults []error
	if c.Partitions < 0 || c.Partitions > maxPartitions {
		faults = append(faults, fmt.Errorf("Partitions is %d: it must be 1 to %d", c.Partitions, maxPartitions))
	}
	if c.PollInterval < 0 {
		faults = append(faults, fmt.Errorf("PollInterval is %s: it must be positive", c.PollInterval))
	}
	if c.BusyTimeout < 0 {
		faults = append(faults, fmt.Errorf("BusyTimeout is %s: it must be positive", c.BusyTimeout))
	}
	return errors.Join(faults...)
}

const maxPartitions = 1 << 12

// OpenAddress opens the database of an address, sqlite:PATH, which is made when it is not there. It is an
// address.Opener. Settings: poll (100ms), which is Config.PollInterval.
func OpenAddress(ctx context.Context, text string, config address.Config) (framework.Transport, error) {
	path, poll, err := address.TakeDuration(text, "poll", 0)
	if err != nil {
		return nil, fmt.Errorf("sqlite: address: %w", err)
	}
	path = strings.TrimPrefix(strings.TrimPrefix(path, "sqlite:"), "//")
	if path == "" || strings.Contains(path, "?") {
		return nil, fmt.Errorf("sqlite: address: %q: it must be like sqlite:topics.db or sqlite:topics.db?poll=100ms", text)
	}
	return Open(ctx, path, Config{Partitions: config.Partitions, PollInterval: poll})
}
