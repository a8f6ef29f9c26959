package framework

import (
	"fmt"

	"github.com/millrace/millrace/internal/ident"
	"github.com/millrace/millrace/microstore"
)

// Where a topic has no positions, a record that is delivered again is known by its event's id: the ids of what was
// processed are written in the commit of what it caused. An event that became a fault is processed too. One that is
// tried again is not looked up again, so it does not see itself.
//
// So is a record between two stages whose topic is not in the store: the relay that sent it may have died before it
// knew, and sends it again, at another position.
//
// Ids are looked up when a batch is prepared, and added when a round is gathered; both are the task's own goroutine's.
// A round that is taken back takes its ids back.

// defaultRemember is Source.Remember where nothing is said.
const defaultRemember = 250_000

// openProcessed opens the ids of a source whose records may come twice.
func (src *taskSource) openProcessed(slice *microstore.Task) (err error) {
	if src.position && !src.relayed {
		return nil
	}
	src.processed, err = slice.Processed(src.node.name+".processed", src.node.source.remember)
	return err
}

// identify notes the identity of record i, whose decoding gave err. Without an id there is nothing to know it by, and it
// becomes a fault, which is named after its bytes.
func (p *prepared) identify(i int, r *Record, err error) error {
	h := p.arena.header(i)
	if h.id != "" {
		p.ids[i] = h.id
		if p.work.source.relayed { // a re-key may send an event to several keys
			p.ids[i] = h.Key + "\x00" + h.id
		} else if h.Source != "" { // CloudEvents' ids are unique for each source
			p.ids[i] = h.Source + "\x00" + h.id
		}
		return err
	}
	h.id = ident.One(ident.Path(0).Step(ident.Fingerprint(p.work.batch.Topic, "no id")), r.Key+"\x00"+string(r.Value))
	if err == nil {
		err = Permanent(fmt.Errorf("the event has no id, and topic %q has no positions, so it could not be told when it is "+
			"delivered again; set Source.ID, or have who sends it give it a message UUID or a %s", p.work.batch.Topic, MetadataID))
	}
	return err
}

// dropProcessed finds the records that were processed before, by this run or an earlier one, or that are in the batch
// again.
func (p *prepared) dropProcessed() {
	if p.ids == nil {
		return
	}
	processed := p.work.source.processed
	seen := make(map[string]struct{}, len(p.ids))
	for i, id := range p.ids {
		if id == "" {
			continue
		}
		if _, again := seen[id]; again || processed.Has(id) {
			p.fate[i], p.ids[i] = fateProcessed, ""
			continue
		}
		seen[id] = struct{}{}
	}
}

// remember adds the ids of the records from..to to a commit.
func (p *prepared) remember(c *commit, from, to int) {
	if p.ids == nil {
		return
	}
	ids := make([]string, 0, to-from)
	for _, id := range p.ids[from:to] {
		if id != "" {
			ids = append(ids, id)
		}
	}
	p.work.source.processed.Add(c.own, ids...)
}
