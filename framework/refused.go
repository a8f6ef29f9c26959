package framework

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/internal/ident"
	"github.com/millrace/millrace/microstore"
)

// refusals is where a relay puts records that its sink refuses for good though their commit is done, as when a limit was
// lowered meanwhile: into the dead letters, with their bytes.
//
// The dead letter is in the store, as that topic or as a row for its relay, before the relay goes on and the record is
// forgotten; a crash in between repeats it, under the same id. Where keys are parked see heldBack. Where partitions are
// shared out, the group's position waits for the dead letter as it does for the record. A relay of dead letters has no
// refusals, so no relay waits for another in a circle.
type refusals struct {
	pipeline, step string
	letters        *sinkTarget
	parks          bool // records with keys are held back instead: later ones must not pass by
}

// refusalsOf is where a stage's records go that a sink refuses. There is no such place for dead letters.
func (st *stage) refusalsOf(topic string, sinks map[string]*sinkTarget) *refusals {
	if topic == st.pipeline.DeadLetters() {
		return nil
	}
	i := slices.IndexFunc(st.sinks, func(n *node) bool { return n.sink.topic == topic })
	return &refusals{st.pipeline.name, st.sinks[i].name, sinks[st.pipeline.DeadLetters()], st.pipeline.parking != nil}
}

// settleRefusals decides for the relays of all tasks: where several stages send to a topic, the first has the dead letters,
// and keys are held back if one of them parks. It puts relays to which others may hand dead letters behind those.
func (r *Runner) settleRefusals() error {
	for _, relay := range r.relays {
		for _, st := range r.stages {
			if st.shared != nil || !slices.Contains(st.topics, relay.topic) {
				continue
			}
			found := st.refusalsOf(relay.topic, r.env.sinks)
			if relay.refusals == nil || found == nil {
				relay.refusals = found
			} else {
				relay.refusals.parks = relay.refusals.parks || found.parks
			}
			if found == nil {
				break
			}
		}
		if err := relay.openHeld(relay.topic); err != nil {
			return err
		}
	}
	slices.SortStableFunc(r.relays, func(a, b *relay) int {
		last := func(r *relay) int {
			if r.refusals == nil {
				return 1
			}
			return 0
		}
		return last(a) - last(b)
	})
	return nil
}

// refuse makes a dead letter of a record.
func (r *relay) refuse(ctx context.Context, record *Record, cause error) error {
	f := r.refusals.faultOf(r.topic, record, cause)
	letter := f.record(ident.One(ident.Path(0).Step(ident.Fingerprint(f.Pipeline, r.topic, "refused")), record.ID))
	if err := r.keepLetter(ctx, &letter); err != nil {
		return fmt.Errorf("framework: sink %q: %w; the dead letter of it: %w", r.topic, cause, err)
	}
	if err := failpoint.Hit("release.refused"); err != nil {
		return err
	}
	r.env.config.Logger.Warn("sink refused a record for good; it is a dead letter now", "topic", r.topic, "record", record.ID, "error", cause)
	for _, hook := range r.env.hooks.fault {
		hook.OnFault(f)
	}
	return nil
}

// keepLetter commits a dead letter: in pieces where it does not fit one commit, since it may take more than the record did.
func (r *relay) keepLetter(ctx context.Context, letter *Record) error {
	target, records := r.refusals.letters, []Record{*letter}
	b, p := r.store.NewBatch(), pending{relay: r.refusals.letters.relay, records: records, sending: r.current}
	if target.store == nil {
		data := AppendRecords(nil, records, nil)
		p.row, p.bytes = p.relay.outbox.Add(b, data), int64(len(data)+recordBytes)
	} else if err := target.store.Append(b, target.topic, Partition(cmp.Or(letter.Key, letter.ID), target.partitions), records); err != nil {
		return err
	}
	err := r.store.Commit(ctx, b)
	if halves := halve(letter); errors.Is(err, microstore.ErrTooBig) && halves != nil {
		if err := r.keepLetter(ctx, &halves[0]); err != nil {
			return err
		}
		return r.keepLetter(ctx, &halves[1])
	}
	if err != nil || target.store != nil {
		return err
	}
	r.current.more(1)
	return p.relay.add(ctx, p)
}

// faultOf describes a record that a topic has refused.
func (to *refusals) faultOf(topic string, record *Record, cause error) Fault {
	f := Fault{
		Pipeline: to.pipeline, Step: to.step, Error: cause.Error(), Class: ClassPermanent, Attempts: 1, Topic: topic, Refused: true,
		Event: FaultEvent{
			ID: record.ID, Type: record.Type, Source: record.Source, Key: record.Key, Metadata: record.Metadata,
			Causes: record.Causes, Step: record.Step,
		},
	}
	if at := record.Time; !at.IsZero() {
		f.Event.Time = &at
	}
	f.Event.setBytes(record.Value)
	f.Event.Deleted = record.Value == nil
	return f
}
