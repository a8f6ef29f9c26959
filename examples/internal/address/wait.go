package address

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"
)

// WaitFlag binds the flag --wait, which With puts into an address.
func WaitFlag(f *flag.FlagSet, wait *time.Duration) {
	f.DurationVar(wait, "wait", 0, "wait so long, `TIME`, for a Kafka broker that does not answer yet (default 15s)")
}

// With is the address that --transport gives, with what --wait says.
func With(address string, wait time.Duration) (string, error) {
	scheme, _, _ := strings.Cut(address, ":")
	switch {
	case wait < 0:
		return "", fmt.Errorf("--wait is %s; it cannot be negative", wait)
	case wait == 0:
		return address, nil
	case address == "":
		return "", errors.New("--wait is for kafka: addresses, and --transport is not given")
	case scheme != "kafka":
		return "", fmt.Errorf("--wait is for kafka: addresses, and this one is of %s: topics", scheme)
	}
	separator := "?"
	if strings.Contains(address, "?") {
		separator = "&"
	}
	return address + separator + "wait=" + wait.String(), nil
}
