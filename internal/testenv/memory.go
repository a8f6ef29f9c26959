package testenv

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Memory is what a process has in memory, in bytes: now, and the most that it had. Where the system has no /proc, ok is
// false.
func Memory(pid int) (now, peak int64, ok bool) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, false
	}
	for line := range strings.Lines(string(status)) {
		words := strings.Fields(line) // "VmRSS: 1234 kB"
		if len(words) < 2 {
			continue
		}
		switch n, _ := strconv.ParseInt(words[1], 10, 64); words[0] {
		case "VmRSS:":
			now = n << 10
		case "VmHWM:":
			peak = n << 10
		}
	}
	return now, peak, now > 0 && peak > 0
}
