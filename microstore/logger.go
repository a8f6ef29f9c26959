package microstore

import (
	"fmt"
	"log/slog"
	"strings"
)

// badgerLog passes Badger's messages on. Its information is about files and compactions, which is detail
// for whoever runs a pipeline.
type badgerLog struct{ to *slog.Logger }

func (l badgerLog) Errorf(format string, args ...any)   { l.to.Error(message(format, args)) }
func (l badgerLog) Warningf(format string, args ...any) { l.to.Warn(message(format, args)) }
func (l badgerLog) Infof(format string, args ...any)    { l.to.Debug(message(format, args)) }
func (l badgerLog) Debugf(string, ...any)               {} // one for every write

func message(format string, args []any) string {
	return "microstore: badger: " + strings.TrimSpace(fmt.Sprintf(format, args...))
}
