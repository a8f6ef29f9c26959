package framework

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/millrace/millrace/internal/fields"
)

// The changelog of a task is a partition of a topic. Its records are
//
//	version, kind, flags   1 byte each
//	epoch, generation      uvarint each: of the owner that wrote it
//	seq                    uvarint: the commit that it holds, or that it comes after
//	number                 uvarint: of a copy in its round
//	part, parts            uvarint each: of what is too large for one record
//	body                   the rest
//
// There are three kinds. A *claim* says that another process owns the task from here on. *Changes* are what one commit
// changed in the slice. A *copy* is a piece of the slice as it was after a commit; the copies of a round, together with
// the changes between them, are all of it.
type logRecord struct {
	kind, flags       byte
	epoch, generation uint64
	seq, number       uint64
	part, parts       uint64
	body              []byte
}

const logVersion = 1

const (
	logClaim byte = 1 + iota
	logChanges
	logCopy
)

const (
	// logWhole: the log holds a round of copies from the first to the last, before this record, and the state was as far
	// as the group.
	logWhole byte = 1 << iota
	// logBegin and logEnd: the first and the last copy of a round.
	logBegin
	logEnd
	// logReset: of a claim, what was before is void. A round follows.
	logReset
	// logFresh: of a claim, the group has no positions, so its generations may have begun anew.
	logFresh
)

// logPartBytes bounds the body of one record, well below what brokers take.
const logPartBytes = 256 << 10

func (h *logRecord) append(dst []byte) []byte {
	dst = append(dst, logVersion, h.kind, h.flags)
	for _, v := range []uint64{h.epoch, h.generation, h.seq, h.number, h.part, h.parts} {
		dst = binary.AppendUvarint(dst, v)
	}
	return append(dst, h.body...)
}

// records makes records of one, in as many parts as it takes.
func (h logRecord) records(key string) []Record {
	body := h.body
	h.parts = uint64(max(1, (len(body)+logPartBytes-1)/logPartBytes))
	all := make([]Record, 0, h.parts)
	for h.part = 0; h.part < h.parts; h.part++ {
		n := min(len(body), logPartBytes)
		h.body, body = body[:n], body[n:]
		all = append(all, Record{Key: key, Value: h.append(make([]byte, 0, 64+n))})
	}
	return all
}

var errLogRecord = errors.New("it is not a record of a changelog, or damaged")

func readLogRecord(value []byte) (h logRecord, err error) {
	w := fields.Reader{Rest: value}
	version := w.Byte()
	if !w.Failed && version != logVersion {
		return h, fmt.Errorf("it is written in format %d, this release reads %d", version, logVersion)
	}
	h.kind, h.flags = w.Byte(), w.Byte()
	for _, v := range []*uint64{&h.epoch, &h.generation, &h.seq, &h.number, &h.part, &h.parts} {
		*v = w.Uvarint()
	}
	h.body = w.Rest
	if w.Failed || h.kind < logClaim || h.kind > logCopy || h.part >= h.parts {
		return h, errLogRecord
	}
	return h, nil
}

// logPlace is how far a slice is in its changelog. It is written with every commit, beside the slice.
type logPlace struct {
	partial           bool // the slice is being made and not to be used yet
	known             bool // the slice is what the log holds up to seq, as far as there are copies
	whole             bool // and the copies are complete
	copying           bool // in a round
	epoch, generation uint64
	seq, number       uint64
	next              int64  // offset to read on from
	topic             string // id of the topic that all of it is of; "" when it has none
}

func placeName(task string) string { return "framework.changelog/" + task }

func (p logPlace) append(dst []byte) []byte {
	flags := byte(0)
	for i, set := range []bool{p.partial, p.known, p.whole, p.copying} {
		if set {
			flags |= 1 << i
		}
	}
	dst = append(dst, logVersion, flags)
	for _, v := range []uint64{p.epoch, p.generation, p.seq, p.number, uint64(p.next)} {
		dst = binary.AppendUvarint(dst, v)
	}
	return fields.AppendString(dst, p.topic)
}

func readPlace(value []byte) (p logPlace, err error) {
	w := fields.Reader{Rest: value}
	version, flags := w.Byte(), w.Byte()
	for i, field := range []*bool{&p.partial, &p.known, &p.whole, &p.copying} {
		*field = flags&(1<<i) != 0
	}
	next := uint64(0)
	for _, v := range []*uint64{&p.epoch, &p.generation, &p.seq, &p.number, &next} {
		*v = w.Uvarint()
	}
	p.next, p.topic = int64(next), w.String()
	if w.Failed || version != logVersion {
		return logPlace{}, errLogRecord
	}
	return p, nil
}
