package harness

import (
	"fmt"
	"math"

	"github.com/millrace/millrace/benchmarks/peers/internal/orders"
)

// System is one that is measured.
type System struct {
	Name string
	// Program is its directory under systems/, Args what it is called with.
	Program string
	Args    []string
	// Env is added to its environment.
	Env []string
	// Java programs are built with Maven, and are told the number of their processors.
	Java bool
	// OnlyByName leaves it out unless it is asked for.
	OnlyByName bool
}

// two lets two goroutines run at the same time, on however many processors.
var two = []string{"GOMAXPROCS=2"}

// Systems are all that there are; Millrace is the first.
func Systems() []System {
	return []System{
		{Name: "millrace", Program: "millrace"},
		{Name: "millrace-goccy", Program: "millrace", Args: []string{"goccy"}},
		{Name: "millrace-small", Program: "millrace", Env: []string{"GOMEMLIMIT=416MiB"}},
		{Name: "millrace-changelog", Program: "millrace", Args: []string{"changelog"}},
		{Name: "millrace-two", Program: "millrace", Env: two},
		{Name: "franz", Program: "franz", Args: []string{"v2"}},
		{Name: "franz-goccy", Program: "franz", Args: []string{"goccy"}},
		{Name: "franz-two", Program: "franz", Args: []string{"v2"}, Env: two},
		{Name: "watermill", Program: "watermill"},
		{Name: "goka", Program: "goka"},
		{Name: "goka-two", Program: "goka", Env: two},
		{Name: "kstreams", Program: "kstreams", Args: []string{"scan"}, Java: true},
		{Name: "kstreams-point", Program: "kstreams", Args: []string{"point"}, Java: true},
		{Name: "kstreams-eos", Program: "kstreams", Args: []string{"point", "eos"}, Java: true, OnlyByName: true},
	}
}

func names() []string {
	var all []string
	for _, s := range Systems() {
		all = append(all, s.Name)
	}
	return all
}

// Run is one system in one mode.
type Run struct {
	Mode, Workload, System string
	// Orders are how many there are before it; in the mode kill more come, in the modes latency and equal all come at a rate.
	Orders int
	// Rate is of a run that was done in the mode equal.
	Rate float64
	// Empty: after the kill the system starts with an empty directory.
	Empty bool
}

func (r Run) set() orders.Set { return orders.Set{Workload: r.Workload, Orders: r.Orders} }

func (r Run) system() System {
	for _, s := range Systems() {
		if s.Name == r.System {
			return s
		}
	}
	return System{}
}

func (r Run) String() string {
	text := fmt.Sprintf("%s %s %s", r.Workload, r.Mode, r.System)
	if r.Orders > 0 {
		text += fmt.Sprintf(", %d orders", r.Orders)
	}
	if r.Rate > 0 {
		text += fmt.Sprintf(", %.0f records/s", r.Rate)
	}
	if r.Empty {
		text += ", without its state"
	}
	return text
}

// Plan returns the runs of one round. W1 has no state, so each system gets as many orders as it does in about the same
// time. In W2 the size of the state counts, so all get the same; the fast ones, which process many more while their
// latency is measured, also get about as many as that, for half of the lesser rate to be half of what they can do then. A
// full plan has a million orders besides, for those that can do that in a minute or two.
func Plan(full bool) []Run {
	var plan []Run
	add := func(mode, workload string, orders int, systems ...string) {
		for _, s := range systems {
			plan = append(plan, Run{Mode: mode, Workload: workload, System: s, Orders: orders})
		}
	}
	add(Throughput, "W1", 1_000_000, "millrace", "millrace-goccy", "franz", "franz-goccy")
	add(Throughput, "W1", 60_000, "watermill")
	add(Throughput, "W1", 300_000, "goka")
	add(Throughput, "W1", 600_000, "kstreams", "kstreams-eos")
	all := []string{"millrace", "franz", "watermill", "goka", "kstreams", "kstreams-point", "kstreams-eos"}
	add(Throughput, "W2", 60_000, append(all, "millrace-changelog")...)
	add(Throughput, "W2", 600_000, "millrace", "millrace-small", "millrace-changelog", "franz")
	if full {
		add(Throughput, "W2", 600_000, "kstreams")
		add(Throughput, "W2", 1_000_000, "millrace", "millrace-small", "franz", "kstreams-point", "kstreams-eos")
	}
	add(Latency, "W1", 0, "millrace", "franz", "watermill", "goka", "kstreams", "kstreams-eos")
	add(Latency, "W2", 0, all...)
	add(Equal, "W1", 0, "millrace", "millrace-two", "franz", "franz-two", "watermill", "goka", "goka-two", "kstreams", "kstreams-eos")
	add(Equal, "W2", 0, append(all, "millrace-two", "franz-two", "goka-two")...)
	for _, empty := range []bool{false, true} {
		for _, s := range []string{"millrace", "franz", "watermill", "goka", "kstreams-point", "kstreams-eos"} {
			plan = append(plan, Run{Mode: Kill, Workload: "W2", System: s, Orders: 30_000, Empty: empty})
		}
	}
	return plan
}

// chosen returns the runs of a round that were asked for, with their sizes.
func (c Config) chosen() []Run {
	var runs []Run
	seen := map[Run]bool{}
	for _, r := range Plan(c.Full) {
		if !c.wants(r) {
			continue
		}
		if r.Mode != Latency && r.Mode != Equal { // there the rate and the time say how many
			r.Orders = int(math.Round(float64(r.Orders) * c.Scale))
			if c.Orders > 0 {
				r.Orders = c.Orders
			}
			r.Orders = max(r.Orders, 1)
		}
		if !seen[r] {
			seen[r] = true
			runs = append(runs, r)
		}
	}
	return runs
}
