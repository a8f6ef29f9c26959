package testenv

import (
	"fmt"
	"strconv"
	"strings"
)

// prefix starts every line of the record.
const prefix = "MILLRACE-SERVICE"

// Line is one line of the record: either a service that was used, or what did not run.
//
//	MILLRACE-SERVICE suite="outbox" service="postgres" used="container postgres:15"
//	MILLRACE-SERVICE suite="outbox" not-run="mariadb" why="no Docker daemon"
type Line struct {
	Suite         string
	Service, Used string
	NotRun, Why   string
}

// String returns the line without its line break. Values are quoted as Go strings, so they may hold anything.
func (l Line) String() string {
	if l.NotRun != "" {
		return fmt.Sprintf("%s suite=%q not-run=%q why=%q", prefix, l.Suite, l.NotRun, l.Why)
	}
	return fmt.Sprintf("%s suite=%q service=%q used=%q", prefix, l.Suite, l.Service, l.Used)
}

// ParseLine reads what String returns. It reports false for a line that is not of the record. Unknown names are
// passed over.
func ParseLine(text string) (Line, bool) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), prefix+" ")
	if !ok {
		return Line{}, false
	}
	var line Line
	fields := map[string]*string{
		"suite": &line.Suite, "service": &line.Service, "used": &line.Used,
		"not-run": &line.NotRun, "why": &line.Why,
	}
	for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimSpace(rest) {
		name, after, ok := strings.Cut(rest, "=")
		if !ok {
			return Line{}, false
		}
		quoted, err := strconv.QuotedPrefix(after)
		if err != nil {
			return Line{}, false
		}
		value, err := strconv.Unquote(quoted)
		if err != nil {
			return Line{}, false
		}
		if field := fields[name]; field != nil {
			*field = value
		}
		rest = after[len(quoted):]
	}
	return line, line.Suite != ""
}
