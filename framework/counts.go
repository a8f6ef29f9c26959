package framework

// Counts are what has happened at a node since its pipeline first ran with this store. They are part of every
// commit, so they count each event exactly once, whatever crashed in between.
type Counts struct {
	// In and Out are events that came in and went out; for a source, In is the records read, without those that
	// were known to be processed before.
	In, Out int64
	// Faults went to the dead-letter topic, Late came after their window, Duplicates were seen before; for a source whose
	// topic has no positions, that is what was delivered again.
	Faults, Late, Duplicates int64
	// Overflowed left a join before their time was up, because of Window.MaxCount or MaxBytes.
	Overflowed int64
}

// Counts returns the counts of a node, over all partitions that this process has, as of the last commits. Zero before
// Run.
func (r *Runner) Counts(pipeline, node string) Counts {
	var c Counts
	for _, t := range r.live() {
		if t.stage.pipeline.name != pipeline {
			continue
		}
		for _, n := range t.stage.nodes {
			if n.name != node {
				continue
			}
			t.totalsLock.Lock()
			total := t.totals[n.path]
			c.In += total[countIn]
			c.Out += total[countOut]
			c.Faults += total[countFault]
			c.Late += total[countLate]
			c.Duplicates += total[countDuplicate]
			c.Overflowed += total[countOverflow]
			t.totalsLock.Unlock()
		}
	}
	return c
}
