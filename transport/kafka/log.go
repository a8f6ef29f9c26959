package kafka

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// lent is the handler of a transport without Config.Logger: it passes on to the logger of who reads or writes through it.
type lent struct{ by atomic.Pointer[slog.Logger] }

// take takes a logger, unless it drops everything: somebody else's may not.
func (l *lent) take(logger *slog.Logger) {
	if logger != nil && logger.Enabled(context.Background(), slog.LevelError) {
		l.by.Store(logger)
	}
}

func (l *lent) handler() slog.Handler {
	if logger := l.by.Load(); logger != nil {
		return logger.Handler()
	}
	return slog.DiscardHandler
}

func (l *lent) Enabled(ctx context.Context, level slog.Level) bool {
	return l.handler().Enabled(ctx, level)
}
func (l *lent) Handle(ctx context.Context, r slog.Record) error { return l.handler().Handle(ctx, r) }
func (l *lent) WithAttrs(attributes []slog.Attr) slog.Handler {
	return l.handler().WithAttrs(attributes)
}
func (l *lent) WithGroup(name string) slog.Handler { return l.handler().WithGroup(name) }

// clientLogger passes on what the clients of a transport tell. What they call warnings and errors they mostly mend
// themselves, and while a broker is away each of them tells it several times a second: a warning comes through every
// warnEvery, and the rest is for those who debug. So is what they tell at "info", which is each connection and rebalance.
type clientLogger struct {
	to *slog.Logger

	mu      sync.Mutex
	warned  time.Time
	leftOut int // warnings since then
}

const warnEvery = 10 * time.Second

func (l *clientLogger) Level() kgo.LogLevel {
	switch {
	case l.to.Enabled(context.Background(), slog.LevelDebug):
		return kgo.LogLevelInfo
	case l.to.Enabled(context.Background(), slog.LevelWarn):
		return kgo.LogLevelWarn
	}
	return kgo.LogLevelNone
}

func (l *clientLogger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	to := slog.LevelDebug
	if level <= kgo.LogLevelWarn {
		if leftOut, ok := l.turn(); ok {
			to = slog.LevelWarn
			if leftOut > 0 {
				keyvals = append(slices.Clip(keyvals), "left_out", leftOut)
			}
		}
	}
	l.to.Log(context.Background(), to, "kafka client: "+msg, keyvals...)
}

// turn tells whether a warning comes through, and how many did not since the last that did.
func (l *clientLogger) turn() (leftOut int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.warned.IsZero() || now.Sub(l.warned) >= warnEvery {
		leftOut, l.leftOut, l.warned = l.leftOut, 0, now
		return leftOut, true
	}
	l.leftOut++
	return 0, false
}

// tellOfWaiting warns once that no broker answers yet, unless end is called before.
func (c *Config) tellOfWaiting() (end func()) {
	told := make(chan struct{})
	timer := time.AfterFunc(min(3*time.Second, c.Wait/5), func() {
		defer close(told)
		c.Logger.Warn("kafka: no broker answers yet; it is waited for", "brokers", strings.Join(c.Brokers, ", "), "wait", c.Wait)
	})
	return func() {
		if !timer.Stop() {
			<-told
		}
	}
}
