package address

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
)

// Config is what an address does not say. Its zero value is the default.
type Config struct {
	// Store is the engine's, for topics that live in it. Default: none, and such an address is an error.
	Store *microstore.Store
	// Partitions of topics that are made without saying how many, where the address does not say. Default: the
	// transport's.
	Partitions int
	// Logger receives what no caller can be told. Default: none.
	Logger *slog.Logger
}

// Opener opens the transport that an address names. One with a Close method is closed by that.
type Opener func(ctx context.Context, address string, config Config) (framework.Transport, error)

// Schemes are the transports that a program knows, by what stands before the colon of their addresses.
type Schemes map[string]Opener

// ErrUnknown is returned by Schemes.Open for an address with another scheme.
var ErrUnknown = errors.New("there is no transport for it")

// Open opens the transport that an address names. close is called after all that uses the transport, and never nil.
func (s Schemes) Open(ctx context.Context, address string, config Config) (transport framework.Transport, close func() error, err error) {
	nothing := func() error { return nil }
	scheme, _, colon := strings.Cut(address, ":")
	open := s[scheme]
	if open == nil || !colon {
		return nil, nothing, fmt.Errorf("address: %q: %w; an address begins with one of %s", Redacted(address), ErrUnknown,
			strings.Join(slices.Sorted(maps.Keys(s)), ":, ")+":")
	}
	transport, err = open(ctx, address, config)
	if err != nil {
		return nil, nothing, err
	}
	if closer, ok := transport.(io.Closer); ok {
		return transport, closer.Close, nil
	}
	return transport, nothing, nil
}

// Redacted is an address without its password and settings, for logs and errors.
func Redacted(address string) string {
	head, _, _ := strings.Cut(address, "?")
	scheme, rest, found := strings.Cut(head, "://")
	at := strings.LastIndex(rest, "@")
	if !found || at < 0 {
		return head
	}
	user, _, secret := strings.Cut(rest[:at], ":")
	if secret {
		user += ":…"
	}
	return scheme + "://" + user + rest[at:]
}

// Bare is an error unless an address is its scheme and nothing else, such as "memory:".
func Bare(address, scheme string) error {
	if address != scheme+":" {
		return fmt.Errorf("%s: the address is %q, and there is nothing to say behind the colon", scheme, Redacted(address))
	}
	return nil
}

// Known is an error when an address has a setting that is none of those named: a driver behind it might pass over it.
func Known(address string, names ...string) error {
	_, query, _ := strings.Cut(address, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("the settings cannot be read: they must be name=value, joined by &, percent-encoded")
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !slices.Contains(names, name) {
			return fmt.Errorf("there is no setting %q; those there are: %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

// Take takes a setting out of an address, such as group=g, which the driver behind it would not know; empty where it is
// not there.
func Take(address, name string) (rest, value string, err error) {
	head, query, _ := strings.Cut(address, "?")
	var kept []string
	given := 0
	for setting := range strings.SplitSeq(query, "&") {
		text, ours := strings.CutPrefix(setting, name+"=")
		switch {
		case ours:
			if value, err = url.QueryUnescape(text); err != nil {
				return "", "", fmt.Errorf("setting %s is %q: it is not percent-encoded", name, text)
			}
			given++
		case setting != "":
			kept = append(kept, setting)
		}
	}
	if given > 1 || given == 1 && value == "" {
		return "", "", fmt.Errorf("setting %s is empty, or there more than once", name)
	}
	if len(kept) > 0 {
		head += "?" + strings.Join(kept, "&")
	}
	return head, value, nil
}

// TakeDuration takes a setting such as poll=50ms out of an address; otherwise where it is not there.
func TakeDuration(address, name string, otherwise time.Duration) (rest string, value time.Duration, err error) {
	rest, text, err := Take(address, name)
	if err != nil || text == "" {
		return rest, otherwise, err
	}
	if value, err = time.ParseDuration(text); err != nil || value <= 0 {
		return "", 0, fmt.Errorf("setting %s is %q: it must be a duration such as 500ms or 30s", name, text)
	}
	return rest, value, nil
}
