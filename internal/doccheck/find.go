package main

import "strings"

// program is a Go program in a document.
type program struct {
	document string
	line     int // of the program's first line in the document, from 1
	text     string
}

// find returns the programs of a document: the fenced blocks marked go that start with `package main`.
func find(document, text string) []program {
	var (
		programs []program
		fence    string // what closes the open block; empty outside of blocks
		indent   string
		isGo     bool
		body     strings.Builder
		start    int
		number   int
	)
	for row := range strings.Lines(text) {
		number++
		trimmed := strings.TrimSpace(row)
		switch {
		case fence == "":
			if fence = opening(trimmed); fence != "" {
				indent = row[:strings.Index(row, fence)]
				language, _, _ := strings.Cut(strings.TrimSpace(trimmed[len(fence):]), " ")
				isGo, start = language == "go", number+1
				body.Reset()
			}
		case strings.HasPrefix(trimmed, fence) && strings.Trim(trimmed, fence[:1]) == "":
			if isGo && isProgram(body.String()) {
				programs = append(programs, program{document, start, body.String()})
			}
			fence = ""
		default:
			body.WriteString(strings.TrimPrefix(row, indent))
		}
	}
	return programs
}

// opening returns the run of three or more backticks or tildes that a line starts with.
func opening(line string) string {
	for _, mark := range []string{"`", "~"} {
		if rest := strings.TrimLeft(line, mark); len(line)-len(rest) >= 3 {
			return line[:len(line)-len(rest)]
		}
	}
	return ""
}

// isProgram reports whether the first line that is neither empty nor a comment is `package main`.
func isProgram(text string) bool {
	for row := range strings.Lines(text) {
		row = strings.TrimSpace(row)
		if row == "" || strings.HasPrefix(row, "//") {
			continue
		}
		return row == "package main"
	}
	return false
}
