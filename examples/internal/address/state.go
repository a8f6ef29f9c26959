package address

import (
	"os"
	"path/filepath"
	"strings"
)

// StateVariable names the environment variable with the directory in which the states of examples lie by default.
const StateVariable = "MILLRACE_STATE"

// State is the default directory of an example's state: one of its own for each kind of transport and each prefix, since
// positions in a store are those of its topics, and mean nothing in others. The scheme is empty where none was given.
func State(example, scheme, prefix string) string {
	parent := "state"
	if dir := os.Getenv(StateVariable); dir != "" {
		parent = dir
	}
	name := example
	for _, part := range []string{scheme, strings.Trim(prefix, ".-_")} {
		if part != "" {
			name += "-" + part
		}
	}
	return filepath.Join(parent, strings.Map(fileLetter, name))
}

// fileLetter keeps what every file system takes in a name.
func fileLetter(r rune) rune {
	if strings.ContainsRune(`/\:*?"<>| `, r) || r < ' ' {
		return '_'
	}
	return r
}
