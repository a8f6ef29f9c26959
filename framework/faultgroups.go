package framework

import (
	"cmp"
	"slices"
	"strings"
	"unicode"
)

// FaultGroups counts faults by step, class and error, to see what went wrong rather than how often. Its zero value is
// empty. It holds a thousand groups; what comes after is counted in one without step and error.
type FaultGroups struct {
	groups map[FaultGroup]*FaultGroup
	seen   map[letter]struct{}
}

// FaultGroup is what many faults have in common.
type FaultGroup struct {
	Step  string
	Class Class
	// Error is the first line of the errors, with "…" for what tells them apart: numbers and what is in quotes.
	Error string
	// Count is how many there are; Example is the first of them.
	Count   int
	Example string
}

const (
	mostFaultGroups = 1000
	mostFaultsSeen  = 1 << 20
)

// Add counts a fault, once: a crash may have it in the dead letters twice. That is known of the first 1,048,576.
func (g *FaultGroups) Add(f *Fault) {
	name := f.letter()
	if _, twice := g.seen[name]; twice {
		return
	}
	if g.seen == nil {
		g.seen = map[letter]struct{}{}
	}
	if len(g.seen) < mostFaultsSeen {
		g.seen[name] = struct{}{}
	}
	key := FaultGroup{Step: f.Step, Class: f.Class, Error: commonError(f.Error)}
	if g.groups == nil {
		g.groups = map[FaultGroup]*FaultGroup{}
	}
	group := g.groups[key]
	if group == nil && len(g.groups) >= mostFaultGroups {
		key = FaultGroup{}
		group = g.groups[key]
	}
	if group == nil {
		first := key
		first.Example = f.Event.ID
		group = &first
		g.groups[key] = group
	}
	group.Count++
}

// All returns the groups, the largest first.
func (g *FaultGroups) All() []FaultGroup {
	all := make([]FaultGroup, 0, len(g.groups))
	for _, group := range g.groups {
		all = append(all, *group)
	}
	slices.SortFunc(all, func(a, b FaultGroup) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Step, b.Step), cmp.Compare(a.Error, b.Error), cmp.Compare(a.Class, b.Class))
	})
	return all
}

// commonError is an error without what is of one event only.
func commonError(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	var b strings.Builder
	quoted, number := false, false
	for _, r := range text {
		switch {
		case r == '"':
			if quoted = !quoted; quoted {
				b.WriteString(`"…"`)
			}
		case quoted:
		case unicode.IsDigit(r):
			if !number {
				b.WriteRune('…')
			}
		default:
			b.WriteRune(r)
		}
		number = unicode.IsDigit(r)
	}
	return b.String()
}
