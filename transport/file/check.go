package file

import (
	"bytes"
	"context"
	"fmt"
	"unicode/utf8"

	"github.com/millrace/millrace/framework"
)

var (
	_ framework.RecordChecker = (*Transport)(nil)
	_ framework.RecordChecker = (*Dir)(nil)
)

// RecordCheck refuses values that span lines and are no JSON, which could be put on one, and records without a value.
func (t *Transport) RecordCheck(_ context.Context, topic string) func(*framework.Record) error {
	return func(r *framework.Record) error {
		if r.Value != nil && bytes.IndexByte(r.Value, '\n') < 0 {
			return nil
		}
		var s sink
		if err := s.line(r.Value); err != nil {
			return fmt.Errorf("file: output %q: %w", topic, err)
		}
		return nil
	}
}

// RecordCheck refuses events that no line can hold: one that is too long, and attributes that are not UTF-8.
func (d *Dir) RecordCheck(_ context.Context, topic string) func(*framework.Record) error {
	return func(r *framework.Record) error {
		if fitsLine(r) {
			return nil
		}
		if _, err := appendLine(nil, r); err != nil {
			return fmt.Errorf("file: topic %q: %w", topic, err)
		}
		return nil
	}
}

// fitsLine is quick, and tells of most events that they are a line: even if each byte needs six, as escapes do.
func fitsLine(r *framework.Record) bool {
	const names, each = 256, 6
	n, valid := len(r.Value), true
	text := func(all ...string) {
		for _, s := range all {
			n += len(s)
			valid = valid && utf8.ValidString(s)
		}
	}
	text(r.ID, r.Type, r.Source, r.Key, r.Causes, r.Step)
	for name, value := range r.Metadata {
		text(name, value)
		n++ // and its quotation marks
	}
	return valid && n <= (maxLineBytes-names)/each
}
