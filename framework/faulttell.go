package framework

// faultKind is what faults have in common that the log tells once in a while.
type faultKind struct {
	pipeline, step string
	class          Class
}

// tellOf tells hooks and log of faults, after the commit that has them. A fault stops nothing, so without a line in the log
// a pipeline whose every event fails would look like one without input.
func (e *env) tellOf(faults []Fault) {
	for _, f := range faults {
		for _, hook := range e.hooks.fault {
			hook.OnFault(f)
		}
		e.told.Warn(e.config.Logger, faultKind{f.Pipeline, f.Step, f.Class}, "an event is in the dead letters",
			"pipeline", f.Pipeline, "step", f.Step, "class", f.Class, "event", f.Event.ID, "place", f.Place, "error", f.Error)
	}
}
