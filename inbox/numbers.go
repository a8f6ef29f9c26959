package inbox

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/sqldb"
)

// MetadataSequence is the metadata key of a message's number that Millrace's outbox sets: the CloudEvents extension
// "sequence".
const MetadataSequence = "ce_sequence"

var (
	// ErrNoSequence is returned for a message without a number, or without what the number is counted by: a key, and a
	// source that fits.
	ErrNoSequence = errors.New("inbox: the message has no usable number")
	// ErrRestarted is returned for a message whose number was passed already although it is a new message: its producer
	// has begun to count anew, for instance because its table was made anew. It was not handled. Go on with another
	// producer's name, see NewMarks.
	ErrRestarted = errors.New("inbox: the producer has begun to count anew")
	// ErrEarlier is returned for a message, known by its number, behind one of its key in the same batch that was not
	// handled. It was not handled either: that would have passed the other's number for good.
	ErrEarlier = errors.New("inbox: an earlier message of its key was not handled")
)

// MarksConfig of Marks, and of MarksInStore. Its zero value is the default.
type MarksConfig struct {
	// Name of the table, perhaps behind a schema and a dot. Subscribers may share one. Default "millrace_marks".
	Name string
	// Metadata is the metadata key that has the number, a decimal one from 0 up. Default MetadataSequence.
	Metadata string
	// Now is the clock; default time.Now. Clocks of producers and consumers may differ by an hour.
	Now func() time.Time
}

// WithDefaults returns a copy with the defaults filled in.
func (c MarksConfig) WithDefaults() MarksConfig {
	c.Name = cmp.Or(c.Name, "millrace_marks")
	c.Metadata = cmp.Or(c.Metadata, MetadataSequence)
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Validate names every field that cannot be used.
func (c MarksConfig) Validate() error {
	if c.Name == "" {
		return nil
	}
	return sqldb.ValidateName(c.Name)
}

// numbers is the form that knows messages by their numbers, wherever the marks are kept.
type numbers struct {
	subscriber, producer string
	config               MarksConfig
}

func newNumbers(subscriber, producer string, config MarksConfig) (numbers, error) {
	err := errors.Join(checkName("subscriber", subscriber), checkName("producer", producer), config.Validate())
	return numbers{subscriber, producer, config.WithDefaults()}, err
}

func checkName(field, name string) error {
	if isName(name) {
		return nil
	}
	return fmt.Errorf("%s %q: it must be 1 to %d bytes of text", field, name, maxNameBytes)
}

// mark is the highest number of a key that was handled. A number of -1: none yet.
type mark struct {
	number  int64
	id      string // of the message; "": not known
	handled int64  // when, in milliseconds
}

var noMark = mark{number: -1}

// clockMargin is how much clocks may differ.
const clockMargin = time.Hour

const maxKeyBytes = 1024

func (n *numbers) check(r *framework.Record) (number int64, err error) {
	text := r.Metadata[n.config.Metadata]
	number, err = strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil || number < 0:
		return 0, fmt.Errorf("%w: %q has %q in its metadata %q: it must be a number from 0 up", ErrNoSequence, r.ID, text, n.config.Metadata)
	case r.Key == "" || len(r.Key) > maxKeyBytes:
		return 0, fmt.Errorf("%w: %q has a key of %d bytes: it must be 1 to %d, since numbers grow within a key", ErrNoSequence, r.ID, len(r.Key), maxKeyBytes)
	case r.Source != "" && !isName(r.Source):
		return 0, fmt.Errorf("%w: %q has the source %.300q: it must be up to %d bytes of text", ErrNoSequence, r.ID, r.Source, maxNameBytes)
	}
	return number, nil
}

// order is a source and a key: what has one mark.
func (n *numbers) order(r *framework.Record) string {
	return strconv.Itoa(len(r.Source)) + ":" + r.Source + r.Key
}

// judge tells whether a message is past the mark of its key. One that is not was handled before, with two exceptions that
// tell that the numbers have begun anew: its number is that of another message, or it was made after the mark was. With
// an hour between, since clocks differ: until then a new message with a low number is taken for a duplicate.
func (n *numbers) judge(at mark, e entry) (fresh bool, err error) {
	id := usableID(e.record)
	made := e.record.Time
	switch {
	case e.number > at.number:
		return true, nil
	case e.number == at.number && id != "" && at.id != "" && id != at.id,
		e.number < at.number && !made.IsZero() && made.After(time.UnixMilli(at.handled).Add(clockMargin)):
		return false, fmt.Errorf("%w: %q has the number %d, and %q with the number %d of its key was handled at %s", ErrRestarted,
			e.record.ID, e.number, at.id, at.number, time.UnixMilli(at.handled).UTC().Format(time.RFC3339))
	}
	return false, nil
}

// next is the mark that a message leaves.
func (n *numbers) next(e entry) mark {
	return mark{e.number, usableID(e.record), n.config.Now().UnixMilli()}
}

func usableID(r *framework.Record) string {
	if isName(r.ID) {
		return r.ID
	}
	return ""
}
