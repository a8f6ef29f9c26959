package framework

import (
	"fmt"
	"strings"
)

// Sources and Sinks return the topics that the pipeline reads and writes, without its internal ones.
func (p *Pipeline) Sources() []string {
	var all []string
	for _, n := range p.nodes {
		if n.source != nil && n.source.internal == nil {
			all = append(all, n.source.topic)
		}
	}
	return all
}

// Sinks returns the topics that the pipeline writes.
func (p *Pipeline) Sinks() []string {
	var all []string
	for _, n := range p.nodes {
		if n.sink != nil && !n.sink.internal {
			all = append(all, n.sink.topic)
		}
	}
	return all
}

// DeadLetters is the topic that the pipeline's faults go to.
func (p *Pipeline) DeadLetters() string { return p.name + ".faults" }

// String prints the graph as text, a line a node: what it is, where its events come from, what they are, and
// what it keeps.
func (p *Pipeline) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "pipeline %s\n", p.name)
	if p.parking != nil {
		fmt.Fprintf(&b, "  parks the keys of events that fail: at most %d a partition, histories held for %v\n", p.parking.MaxKeys, p.parking.Hold)
	}
	for _, n := range p.nodes {
		fmt.Fprintf(&b, "  %-9s %s", n.kind, n.name)
		switch {
		case n.source != nil && n.source.topic != n.name:
			fmt.Fprintf(&b, " (topic %s)", n.source.topic)
		case n.sink != nil && n.sink.topic != n.name:
			fmt.Fprintf(&b, " (topic %s)", n.sink.topic)
		}
		if len(n.in) > 0 {
			fmt.Fprintf(&b, " ← %s", strings.ReplaceAll(names(n.in), `"`, ""))
		}
		if n.gives != "" {
			fmt.Fprintf(&b, "  %s", n.gives)
		}
		if n.detail != "" {
			fmt.Fprintf(&b, "  (%s)", n.detail)
		}
		b.WriteByte('\n')
		for _, s := range n.states {
			fmt.Fprintf(&b, "            keeps a %s\n", s.describe())
		}
	}
	return b.String()
}

// Mermaid prints the graph as a Mermaid flowchart, a box for each stage.
func (p *Pipeline) Mermaid() string {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	stages := p.cut()
	for i, st := range stages {
		fmt.Fprintf(&b, "  subgraph s%d[\"%s\"]\n", i, escape(st.name))
		for _, n := range st.nodes {
			open, shut := "[", "]"
			switch {
			case n.source != nil || n.sink != nil:
				open, shut = "([", "])"
			case len(n.states) > 0:
				open, shut = "[(", ")]"
			}
			fmt.Fprintf(&b, "    n%d%s\"%s: %s\"%s\n", n.index, open, n.kind, escape(n.name), shut)
		}
		b.WriteString("  end\n")
	}
	for _, n := range p.nodes {
		for _, up := range n.in {
			arrow := "-->"
			if n.source != nil {
				arrow = "-. " + escape(n.source.topic) + " .->"
			}
			fmt.Fprintf(&b, "  n%d %s n%d\n", up.index, arrow, n.index)
		}
	}
	return b.String()
}

func escape(s string) string { return strings.NewReplacer(`"`, "#quot;", "\n", " ").Replace(s) }
