package pgtail

import (
	"fmt"
	"strconv"
	"strings"
)

// snapshot tells which transactions a statement saw: "xmin:xmax:xid,xid", as of txid_current_snapshot. Those from xmax on
// had not begun, those in the list had not ended.
type snapshot struct {
	xmax    uint64
	running map[uint64]bool
}

func parseSnapshot(text string) (s snapshot, err error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return s, fmt.Errorf("%q is no snapshot", text)
	}
	if s.xmax, err = strconv.ParseUint(parts[1], 10, 64); err != nil {
		return s, fmt.Errorf("%q is no snapshot: %w", text, err)
	}
	s.running = map[uint64]bool{}
	for _, xid := range strings.Split(parts[2], ",") {
		if xid == "" {
			continue
		}
		n, err := strconv.ParseUint(xid, 10, 64)
		if err != nil {
			return s, fmt.Errorf("%q is no snapshot: %w", text, err)
		}
		s.running[n] = true
	}
	return s, nil
}

// sees reports whether a transaction had ended, by its number as the log has it: of 32 bits, of which it has been fewer
// than half a circle.
func (s snapshot) sees(xid uint32) bool {
	full := uint64(int64(s.xmax) + int64(int32(xid-uint32(s.xmax))))
	return full < s.xmax && !s.running[full]
}

// includes reports whether s sees all that the other saw.
func (s snapshot) includes(other snapshot) bool {
	if s.xmax < other.xmax {
		return false
	}
	for xid := range s.running {
		if xid < other.xmax && !other.running[xid] {
			return false
		}
	}
	return true
}
