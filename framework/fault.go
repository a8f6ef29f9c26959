package framework

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/millrace/millrace/internal/ident"
)

// ClassLate is the class of faults of events that came after the window that they belong to was closed.
const ClassLate Class = "late"

// timerTopic is the Fault.Topic of faults of timers.
const timerTopic = "timer"

// FaultType is the CloudEvents type of the events in a dead-letter topic.
const FaultType = "millrace.fault"

// Fault is an event that could not be processed. It is the payload, as JSON, of the events in the dead-letter
// topic "<pipeline>.faults".
type Fault struct {
	Pipeline string `json:"pipeline"`
	// Step is the node at which it failed.
	Step string `json:"step"`
	// Error says why; Class how it was judged; Attempts how often it was tried.
	Error    string `json:"error"`
	Class    Class  `json:"class"`
	Attempts int    `json:"attempts"`
	// Place is where the event was found: "flights.csv:17" or "orders/0@42".
	Place     string `json:"place,omitempty"`
	Topic     string `json:"topic,omitempty"`
	Partition int    `json:"partition"`
	Offset    int64  `json:"offset"`
	// Timer is the step that had set it, for a timer; Step may be one behind that. Empty: it is Step.
	Timer string `json:"timer,omitempty"`
	// Event is the event as it came. For a timer its id, key, time and payload.
	Event FaultEvent `json:"event"`
	// Read is what a timer had read of histories when it failed, and what it reads when it is resubmitted: the order that
	// nobody has paid. See Step.OnTimer.
	Read []HistoryRead `json:"read,omitempty"`
	// Part is the id of the part that failed, when the event was split; else empty.
	Part string `json:"part,omitempty"`
	// Parked says that later events of the key wait for this one, or this one for an earlier; see Pipeline.Park.
	Parked bool `json:"parked,omitempty"`
	// Resubmitted is how often the event had been sent again when it failed.
	Resubmitted int `json:"resubmitted,omitempty"`
	// Refused says that Event is an output, that Topic did not take when it was sent, after the commit that decided it. What
	// caused it is done, so it is not resubmitted but published there (Event.Record) once the topic takes it. Where keys are parked only outputs
	// without a key come to this.
	Refused bool `json:"refused,omitempty"`
	// Piece is set where this is a part of a dead letter that its topic does not take in one record: FaultPieces makes it
	// whole, and Runner.DeadLetters has done so. What is not set here is in the whole one.
	Piece *FaultPiece `json:"piece,omitempty"`
	// Order is the number of the resubmission by which the event ran when it failed, where partitions are shared out
	// among processes; 0 when it ran for the first time.
	Order int64 `json:"order,omitempty"`
	// Store names the store of the process in which the event failed, where partitions are shared out; each has drawn its name.
	Store string `json:"store,omitempty"`
}

// FaultEvent is an event as it came, in the attributes of CloudEvents' JSON format.
type FaultEvent struct {
	ID       string            `json:"id"`
	Type     string            `json:"type,omitempty"`
	Source   string            `json:"source,omitempty"`
	Key      string            `json:"partitionkey,omitempty"`
	Time     *time.Time        `json:"time,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	// Causes and Step are those of the record, where a step made the event.
	Causes string `json:"causationids,omitempty"`
	Step   string `json:"millracestep,omitempty"`
	// Schema is what the codec needs to read the bytes: Record.Schema.
	Schema map[string]string `json:"schema,omitempty"`
	// Data holds the original bytes where they are UTF-8, DataBase64 where they are not, or where it is shorter.
	Data       string `json:"data,omitempty"`
	DataBase64 string `json:"data_base64,omitempty"`
	// Deleted says that the record had no value; see Source.Tombstones. Data that is put here counts all the same.
	Deleted bool `json:"deleted,omitempty"`
	// Cut is how many bytes of the event are missing here, since the dead-letter topic takes no record of that size: all of
	// its data and, where it needs to be, its metadata. The event is where Fault.Place says, or in the pieces of the dead letter
	// where Fault.Piece is set. It can be resubmitted with data
	// that was put here, and Cut 0.
	Cut int `json:"cut,omitempty"`
}

// Bytes returns the original payload.
func (e *FaultEvent) Bytes() ([]byte, error) {
	if e.Cut > 0 {
		return nil, fmt.Errorf("%d bytes were too many for the dead-letter topic: the event is only where it came from, or of "+
			"an output that was refused in the pieces of its dead letter (FaultPieces); put its bytes into Data or DataBase64, and Cut to 0", e.Cut)
	}
	if e.DataBase64 != "" {
		return base64.StdEncoding.DecodeString(e.DataBase64)
	}
	return []byte(e.Data), nil
}

// Record returns the event as the record that it came as, for sending it again: to Fault.Topic, once what was wrong has
// been mended.
func (e *FaultEvent) Record() (Record, error) {
	value, err := e.Bytes()
	if err != nil {
		return Record{}, fmt.Errorf("framework: fault of event %q: its bytes: %w", e.ID, err)
	}
	r := Record{ID: e.ID, Type: e.Type, Source: e.Source, Key: e.Key, Metadata: e.Metadata, Schema: e.Schema, Value: value,
		Causes: e.Causes, Step: e.Step}
	if e.Deleted && len(value) == 0 {
		r.Value = nil
	}
	if e.Time != nil {
		r.Time = *e.Time
	}
	return r, nil
}

// faultOf describes the failure of what is being processed; h is the event or the part of it that failed.
func (s *Scope) faultOf(n *node, h *Header, err error, class Class) Fault {
	f := Fault{
		Pipeline: s.task.stage.pipeline.name, Step: n.name,
		Error: err.Error(), Class: class, Attempts: s.attempt,
		Partition: s.task.partition, Resubmitted: s.again, Order: s.asked, Store: s.task.env.storeID,
	}
	if s.timer != nil {
		f.Event = FaultEvent{ID: s.timer.ID, Key: s.timer.Key, Time: &s.timer.At}
		f.Event.setBytes(s.timer.Payload)
		f.Topic = timerTopic
		if set := s.task.stage.timers[s.due.Step].name; set != n.name {
			f.Timer = set
		}
		if h != nil {
			f.Part = h.ID()
		}
		if h != nil || class != ClassLate { // else it is the timer that is late: it has not found what it is about
			f.Read = s.readsTold()
		}
		return f
	}
	whole := s.header
	f.Place = whole.Place()
	if whole.origin != nil {
		f.Topic, f.Partition, f.Offset = whole.origin.Topic, whole.origin.Partition, whole.offset
	}
	if h != nil && h != whole && h.ID() != whole.ID() {
		f.Part = h.ID()
	}
	f.Event = FaultEvent{
		ID: whole.ID(), Type: whole.Type, Source: whole.Source, Key: whole.Key, Metadata: whole.Metadata,
		Causes: whole.causes, Step: whole.step,
	}
	if !whole.Time.IsZero() {
		f.Event.Time = &whole.Time
	}
	if s.record != nil {
		f.Event.Schema = s.record.Schema
		f.Event.setBytes(s.record.Value)
		f.Event.Deleted = s.record.Value == nil
		if f.Event.Key == "" {
			f.Event.Key = s.record.Key
		}
	}
	return f
}

func (e *FaultEvent) setBytes(b []byte) {
	if utf8.Valid(b) && escapedBytes(b) <= base64.StdEncoding.EncodedLen(len(b)) {
		e.Data = string(b)
		return
	}
	e.DataBase64 = base64.StdEncoding.EncodeToString(b)
}

// dataSize is about how many bytes the payload has.
func (e *FaultEvent) dataSize() int {
	if e.DataBase64 != "" {
		return base64.StdEncoding.DecodedLen(len(e.DataBase64))
	}
	return len(e.Data)
}

// escapedBytes is how long text is as a string of JSON, about.
func escapedBytes(text []byte) int {
	n := len(text)
	for _, c := range text {
		switch {
		case c == '"' || c == '\\' || c == '\n' || c == '\r' || c == '\t':
			n++
		case c < 0x20 || c == '<' || c == '>' || c == '&':
			n += 5
		}
	}
	return n
}

// cut leaves out what is large: what a timer had read, then the data and, when it is called again, whatever else may be. It
// tells whether there was something.
func (f *Fault) cut() bool {
	if cutReads(f.Read) > 0 {
		return true
	}
	e := &f.Event
	n := e.dataSize()
	if e.Data, e.DataBase64 = "", ""; n == 0 {
		for name, value := range e.Metadata {
			n += len(name) + len(value)
		}
		for name, value := range e.Schema {
			n += len(name) + len(value)
		}
		e.Metadata, e.Schema = nil, nil
		if len(f.Error) > maxErrorText {
			n += len(f.Error) - maxErrorText
			f.Error = strings.ToValidUTF8(f.Error[:maxErrorText-len(more)], "") + more
		}
	}
	e.Cut += n
	return n > 0
}

const (
	maxErrorText = 4 << 10
	more         = "…"
)

// cutFault shortens a record that is a fault; false when it is none, cannot be shorter, or holds what is nowhere else.
func cutFault(r *Record) bool {
	var f Fault
	if r.Type != FaultType || json.Unmarshal(r.Value, &f) != nil || f.Refused || !f.cut() {
		return false
	}
	value, err := json.Marshal(f)
	if err != nil {
		return false
	}
	r.Value = value
	return true
}

// addFault queues a fault for the dead-letter topic, unless another process has sent it.
func (s *Scope) addFault(f Fault) {
	if s.task.isTold(&f) {
		return
	}
	what := "fault"
	switch { // of one event, where one process has parked its key and the next does not park, or the other way round
	case f.Class == ClassParked:
		what = "parked"
	case f.Parked:
		what = "fault, key parked"
	}
	path := ident.Path(0).Step(ident.Fingerprint(f.Pipeline, f.Step, what))
	if f.Resubmitted > 0 { // another fault of the same event
		path = path.Step(uint64(f.Resubmitted))
	}
	if f.Topic == timerTopic { // its id is its step's, and may be that of other timers of other times and keys
		o := f.occurrence()
		path = path.Step(ident.Fingerprint(f.Pipeline, o.timer)).Step(uint64(o.at)).Key(o.key)
	}
	cause := f.Event.ID
	if f.Part != "" {
		cause = f.Part
	}
	r := s.send(len(s.task.stage.topics) - 1)
	*r = f.record(ident.One(path, cause))
	s.faults = append(s.faults, f)
}

// record is a fault as what the dead-letter topic is sent.
func (f *Fault) record(id string) Record {
	value, err := json.Marshal(f)
	if err != nil { // strings and numbers always encode
		value = fmt.Appendf(nil, "%q", err.Error())
	}
	r := Record{
		ID: id, Type: FaultType, Source: f.Pipeline, Key: f.Event.Key,
		Value: value, Causes: f.Event.ID, Step: f.Pipeline + "/" + f.Step,
	}
	if f.Event.Time != nil {
		r.Time = *f.Event.Time
	}
	return r
}
