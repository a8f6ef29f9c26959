package framework

// faultKind is what faults have in common that the log tells once in a while.
type faultKind struct {
	pipeline, step string
	class          Class
}

const inDeadLetters = "an event is in the dead letters"

// tellOf tells hooks and log of faults, after the commit that has them. A fault stops nothing, so without a line in the log
// a pipeline whose every event fails would look like one without input.
func (e *env) tellOf(faults []Fault) {
	for _, f := range faults {
		for _, hook := range e.hooks.fault {
			hook.OnFault(f)
		}
		line := []any{"pipeline", f.Pipeline, "step", f.Step, "class", f.Class, "event", f.Event.ID, "place", f.Place, "error", f.Error}
		leftOut, ok := e.told.Turn(faultKind{f.Pipeline, f.Step, f.Class})
		switch {
		case !ok:
			e.config.Logger.Debug(inDeadLetters, line...)
		case leftOut > 0:
			e.config.Logger.Warn(inDeadLetters, append(line, "left_out", leftOut)...)
		default:
			e.config.Logger.Warn(inDeadLetters, line...)
		}
	}
}
