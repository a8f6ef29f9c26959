// Package output is what the examples print beside their answers.
package output

import (
	"io"
	"log/slog"
	"os"
	"sync"
)

// Shared is a writer that an example and the loggers of all that it opens may write to at once.
func Shared(w io.Writer) io.Writer {
	if _, ok := w.(*os.File); ok { // which is one
		return w
	}
	return &shared{to: w}
}

type shared struct {
	mu sync.Mutex
	to io.Writer
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to.Write(p)
}

// Warnings is a logger of what a user has to know: warnings and errors.
func Warnings(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))
}
