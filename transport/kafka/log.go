package kafka

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/internal/seldom"
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

// clientLogger passes on what the clients of a transport tell, and warns of what the transport itself tries again. What
// clients call warnings and errors they mostly mend themselves, and while a broker is away there are several a second: one
// of a kind comes through every seldom.Every, and the rest is for those who debug. So is what clients tell at "info", which is
// each connection and rebalance.
type clientLogger struct {
	to    *slog.Logger
	kinds seldom.Kinds[string]
}

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
	msg = "kafka client: " + msg
	if level <= kgo.LogLevelWarn {
		l.warn("client", msg, keyvals...)
		return
	}
	l.to.Debug(msg, keyvals...)
}

// again warns of what is tried again.
func (l *clientLogger) again(msg string, keyvals ...any) { l.warn(msg, msg, keyvals...) }

func (l *clientLogger) warn(kind, msg string, keyvals ...any) {
	l.kinds.Warn(l.to, kind, msg, keyvals...)
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
