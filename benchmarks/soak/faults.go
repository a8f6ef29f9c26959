package main

import (
	"encoding/json"

	"github.com/millrace/millrace/framework"
)

// faultsSeen are the dead letters, by what they excuse.
type faultsSeen struct {
	count int
	// failed are orders that failed and may be resubmitted.
	failed map[string]bool
	// Late at a step, by order; lateTimers are timers of the join, which tell no order.
	lateJoin, latePairs, lateWindow, lateExpiry, lateTimers map[string]bool
}

func newFaultsSeen() faultsSeen {
	return faultsSeen{
		failed: map[string]bool{}, lateJoin: map[string]bool{}, latePairs: map[string]bool{},
		lateWindow: map[string]bool{}, lateExpiry: map[string]bool{}, lateTimers: map[string]bool{},
	}
}

// about is what a dead letter's event says of itself; timers say nothing.
type about struct{ ID, Order, Kind string }

// fault takes a dead letter: only what was made to fail may be there, and what comes after it.
func (c *checker) fault(f *framework.Fault) {
	c.faults.count++
	var e about
	_ = json.Unmarshal([]byte(f.Event.Data), &e) // what is no event of ours is judged by its step
	switch {
	case f.Class == framework.ClassLate:
		c.late(f, e)
	case f.Class == framework.ClassParked && c.s.parks():
	case f.Class == framework.ClassPermanent && c.wasMadeToFail(f, e):
		c.faults.failed[e.ID] = true
	default:
		c.problem("FAULT of class %s at %s, event %s: %s", f.Class, f.Step, f.Event.ID, f.Error)
	}
}

func (c *checker) wasMadeToFail(f *framework.Fault, e about) bool {
	switch f.Step {
	case "priced":
		return e.Kind == lookupKind
	case "check":
		return e.Kind == checkKind
	case "behind", "windows": // a payment or a timer can fail there too
		return c.s.parks()
	}
	return false
}

// late takes a dead letter that came too late. That may be when the order was made to, when it had failed and was not waited
// for, or when it was not held so long.
func (c *checker) late(f *framework.Fault, e about) {
	switch f.Step {
	case "windows":
		c.faults.lateWindow[e.Order] = true
		return
	case "collect", "expire":
		c.faults.lateExpiry[e.Order] = true
		return
	case "pairs":
		c.faults.latePairs[e.ID] = true
	case "join":
		if f.Topic == "timer" {
			c.faults.lateTimers[f.Event.ID] = true
		} else {
			c.faults.lateJoin[e.ID] = true
		}
	}
	may := e.Kind == lateKind || c.s.Hold > 0 || !c.s.parks() && (e.Kind == lookupKind || e.Kind == checkKind)
	if !may {
		c.problem("LATE at %s: %s%s came in time: %s", f.Step, e.ID, e.Order, f.Error)
	}
}
