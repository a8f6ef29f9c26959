package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/address"
)

// Config of a Transport. Its zero value is the default.
type Config struct {
	// Partitions of a topic that is made without saying how many. Default 4.
	Partitions int
	// AutoCreate makes a topic when it is first named. Default false: an unknown topic is an error, which
	// finds misspelt names.
	AutoCreate bool
	// RetainBytes is how much a partition keeps before the oldest records go, as it is on disk, packed. Default 1 GiB;
	// negative: all.
	RetainBytes int64
	// RetainAge is how long a partition keeps records, by wall time. Default: for ever.
	RetainAge time.Duration
	// Logger receives what no caller can be told. Default: none.
	Logger *slog.Logger
}

// WithDefaults returns a copy with the defaults filled in.
func (c Config) WithDefaults() Config {
	if c.Partitions == 0 {
		c.Partitions = 4
	}
	if c.RetainBytes == 0 {
		c.RetainBytes = 1 << 30
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate names every field that cannot be used.
func (c Config) Validate() error {
	var faults []error
	if c.Partitions < 0 || c.Partitions > maxPartitions {
		faults = append(faults, fmt.Errorf("Partitions is %d: it must be 1 to %d", c.Partitions, maxPartitions))
	}
	if c.RetainAge < 0 {
		faults = append(faults, fmt.Errorf("RetainAge is %s: it must be positive", c.RetainAge))
	}
	return errors.Join(faults...)
}

func (c Config) retention() microstore.LogRetention {
	return microstore.LogRetention{MaxBytes: max(c.RetainBytes, 0), MaxAge: c.RetainAge}
}

const maxPartitions = 1 << 12

// OpenAddress makes the transport of the topics in config.Store, for the address "embedded:". It is an address.Opener.
// The topics keep all records: nobody who names topics by an address has said what may go.
func OpenAddress(_ context.Context, text string, config address.Config) (framework.Transport, error) {
	if err := address.Bare(text, "embedded"); err != nil {
		return nil, err
	}
	return New(config.Store, Config{Partitions: config.Partitions, RetainBytes: -1, Logger: config.Logger})
}
