package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/millrace/millrace/microstore"
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
