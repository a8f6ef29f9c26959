package framework

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace/internal/ident"
)

// FaultPiece is a piece of a dead letter that is larger than its topic takes and holds what is nowhere else. See FaultPieces.
type FaultPiece struct {
	// Of names the dead letter: it is the same in all of its pieces, and follows from its id and bytes.
	Of string `json:"of"`
	// From is where Data begins in the JSON of the whole Fault, which has Total bytes.
	From  int    `json:"from"`
	Total int    `json:"total"`
	Data  []byte `json:"data"`
}

// FaultPieces makes dead letters whole that are in their topic in pieces: those of outputs that a topic refused for good
// (Fault.Refused), where the dead-letter topic does not take all of it in one record. Its zero value is empty. It holds the
// pieces of those that are not whole yet, and the names of those that are. Runner.DeadLetters does it by itself.
type FaultPieces struct {
	letters map[string]map[int]Fault // by Of and From
}

// Add takes the next fault of a dead-letter topic and returns the whole one that it completes: itself where it is no piece.
// Not ok: others are missing, or it has been whole already. Pieces may come more than once, and in any order.
func (p *FaultPieces) Add(f Fault) (whole Fault, ok bool, err error) {
	if f.Piece == nil {
		return f, true, nil
	}
	pieces, known := p.letters[f.Piece.Of]
	if known && pieces == nil { // it was whole before
		return Fault{}, false, nil
	}
	if !known {
		pieces = map[int]Fault{}
		if p.letters == nil {
			p.letters = map[string]map[int]Fault{}
		}
		p.letters[f.Piece.Of] = pieces
	}
	// A crash may have it in pieces of several sizes: these are halves of halves, so of those that begin at one place the
	// longest ends where another begins.
	if was, twice := pieces[f.Piece.From]; !twice || len(was.Piece.Data) < len(f.Piece.Data) {
		pieces[f.Piece.From] = f
	}
	var text []byte
	for len(text) < f.Piece.Total {
		next, there := pieces[len(text)]
		if !there || len(next.Piece.Data) == 0 {
			return Fault{}, false, nil
		}
		text = append(text, next.Piece.Data...)
	}
	p.letters[f.Piece.Of] = nil
	if err := json.Unmarshal(text, &whole); err != nil {
		return Fault{}, false, fmt.Errorf("framework: the pieces of dead letter %q make no fault: %w", f.Piece.Of, err)
	}
	return whole, true, nil
}

// Rest returns a piece of each dead letter that is not whole: the rest was not sent yet, or has been removed, or the
// process died in between and it was sent whole then, since its topic took it by now.
func (p *FaultPieces) Rest() (all []Fault) {
	for _, pieces := range p.letters {
		for _, f := range pieces {
			all = append(all, f)
			break
		}
	}
	slices.SortFunc(all, func(a, b Fault) int { return strings.Compare(a.Piece.Of, b.Piece.Of) })
	return all
}

const (
	// leastFaultPiece is how many bytes of a dead letter a piece has at least.
	leastFaultPiece = 64
	// mostPieceName bounds what a piece repeats of the letter.
	mostPieceName = 256
)

// halve makes two pieces of a dead letter, or of a piece, that must not be cut; nil where it is none or as small as can be.
func halve(r *Record) []Record {
	var f Fault
	if r.Type != FaultType || json.Unmarshal(r.Value, &f) != nil || !f.Refused {
		return nil
	}
	piece := f.Piece
	if piece == nil {
		of := ident.One(ident.Path(0).Step(ident.Fingerprint(string(r.Value))), r.ID) // one that is made anew may have another error
		piece = &FaultPiece{Of: of, Total: len(r.Value), Data: r.Value}
	}
	if len(piece.Data) < 2*leastFaultPiece {
		return nil
	}
	brief := func(s string) string {
		if len(s) > mostPieceName {
			return ""
		}
		return s
	}
	head := Fault{
		Pipeline: f.Pipeline, Step: f.Step, Topic: f.Topic, Class: f.Class, Attempts: f.Attempts, Refused: true,
		Error: "the dead letter is in pieces, since its topic takes no record of its size",
		Event: FaultEvent{ID: brief(f.Event.ID), Key: brief(f.Event.Key), Time: f.Event.Time, Cut: max(f.Event.Cut, f.Event.dataSize(), 1)},
	}
	var halves []Record
	half := len(piece.Data) / 2
	for _, data := range [][]byte{piece.Data[:half], piece.Data[half:]} {
		head.Piece = &FaultPiece{Of: piece.Of, From: piece.From, Total: piece.Total, Data: data}
		if len(halves) > 0 {
			head.Piece.From += half
		}
		path := ident.Path(0).Step(ident.Fingerprint("piece")).Step(uint64(head.Piece.From)).Step(uint64(len(data)))
		halves = append(halves, head.record(ident.One(path, piece.Of)))
	}
	return halves
}
