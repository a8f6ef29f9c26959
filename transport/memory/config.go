package memory

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/address"
)

// Config of a Transport. Its zero value is the default.
type Config struct {
	// Partitions of a topic that is made without saying how many. Default 4.
	Partitions int
	// RetainEvents is how many records a partition keeps. Default 262,144.
	RetainEvents int
	// RetainBytes is how many bytes of records a partition keeps, by an estimate that counts attributes,
	// payload and 64 bytes for a header. One record over it is kept by itself. Default 64 MiB.
	RetainBytes int64
	// AutoCreate makes a topic when it is first named. Default false: an unknown topic is an error, which
	// finds misspelt names.
	AutoCreate bool
	// Bounded says that all topics will be ended by End, so that the engine can know before they are.
	// Default false: Topic reports Bounded once End was called.
	Bounded bool
}

// WithDefaults returns a copy with the defaults filled in.
func (c Config) WithDefaults() Config {
	if c.Partitions == 0 {
		c.Partitions = 4
	}
	if c.RetainEvents == 0 {
		c.RetainEvents = 1 << 18
	}
	if c.RetainBytes == 0 {
		c.RetainBytes = 64 << 20
	}
	return c
}

// Validate names every field that cannot be used.
func (c Config) Validate() error {
	var faults []error
	if c.Partitions < 0 || c.Partitions > maxPartitions {
		faults = append(faults, fmt.Errorf("Partitions is %d: it must be 1 to %d", c.Partitions, maxPartitions))
	}
	if c.RetainEvents < 0 {
		faults = append(faults, fmt.Errorf("RetainEvents is %d: it must be positive", c.RetainEvents))
	}
	if c.RetainBytes < 0 {
		faults = append(faults, fmt.Errorf("RetainBytes is %d: it must be positive", c.RetainBytes))
	}
	return errors.Join(faults...)
}

const maxPartitions = 1 << 16

// OpenAddress makes a transport of topics in memory, for the address "memory:". It is an address.Opener. The topics
// keep 1 GiB a partition: nobody who names topics by an address has said what may go.
func OpenAddress(_ context.Context, text string, config address.Config) (framework.Transport, error) {
	if err := address.Bare(text, "memory"); err != nil {
		return nil, err
	}
	return New(Config{Partitions: config.Partitions, RetainBytes: 1 << 30, RetainEvents: 1 << 24})
}
