package framework

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/internal/fields"
)

// Which records of a changelog count, decided by their order alone. Records are written as
//
//	claim/epoch/generation/seq, changes/epoch/seq/body, copy/epoch/seq/number/body
//
// with flags behind: whole, begin, end, reset, fresh, and "1of2", "2of2" for parts.
func TestLogReader(t *testing.T) {
	const round = "claim/1/1/0 copy/1/0/0/a/begin changes/1/1/b copy/1/1/1/c/end/whole "
	for _, c := range []struct {
		name, log string
		local     *logPlace
		want      string // the bodies that count
		at        string // epoch and seq, and whether what is there is whole
		err       error
	}{
		{name: "a round", log: round + "changes/1/2/d", want: "abcd", at: "1 2 whole"},
		{name: "changes before the round", log: "claim/1/1/0 changes/1/1/x copy/1/1/0/a/begin/end changes/1/2/b", want: "ab", at: "1 2 whole"},
		{name: "half a round", log: "claim/1/1/0 copy/1/0/0/a/begin changes/1/1/b", want: "ab", at: "1 1 known"},
		{name: "sent again", log: round + "changes/1/1/b copy/1/1/1/c/end/whole changes/1/2/d changes/1/2/d", want: "abcd", at: "1 2 whole"},
		{name: "the round sent again", want: "abcd", at: "1 1 whole",
			log: "claim/1/1/0 copy/1/0/0/a/begin changes/1/1/b copy/1/1/1/c copy/1/0/0/a/begin changes/1/1/b copy/1/1/1/c copy/1/1/2/d/end"},
		{name: "the next round", log: round + "changes/1/2/d copy/1/2/0/x/begin/whole changes/1/3/e copy/1/3/1/y/end/whole", want: "abcde", at: "1 3 whole"},
		{name: "a gap", log: round + "changes/1/3/d", err: errLogStale},
		{name: "another round begins", want: "cd", at: "1 5 whole",
			log: "claim/1/1/0 copy/1/0/0/a/begin changes/1/1/b copy/1/5/0/c/begin copy/1/5/1/d/end"},

		{name: "changes of an owner that is none", log: round + "claim/2/2/1 changes/1/2/x changes/2/2/d changes/1/3/x", want: "abcd", at: "2 2 whole"},
		{name: "copies of an owner that is none", log: "claim/1/1/0 claim/2/2/0 copy/1/0/0/x/begin/end", at: "2 0 "},
		{name: "its copies in a round", want: "abc", at: "2 1 whole",
			log: "claim/1/1/0 claim/2/2/0 copy/2/0/0/a/begin copy/1/0/0/x/begin copy/1/0/1/x/end changes/2/1/b copy/2/1/1/c/end"},
		{name: "its claim, late", log: round + "claim/2/2/1 claim/2/1/1 changes/2/2/d", want: "abcd", at: "2 2 whole"},
		{name: "its claim, of a lower generation", log: round + "claim/2/5/1 claim/3/4/1 changes/2/2/d", want: "abcd", at: "2 2 whole"},
		{name: "a claim after one that does not count", log: round + "claim/2/5/1 claim/3/4/1 claim/3/6/1 changes/2/2/x changes/3/2/d", want: "abcd", at: "3 2 whole"},
		{name: "a group that begins anew", log: round + "claim/2/5/1 claim/3/1/1/fresh changes/2/2/x changes/3/2/d", want: "abcd", at: "3 2 whole"},
		{name: "a claim in the first round", want: "yz", at: "2 3 whole",
			log: "claim/1/1/0 copy/1/0/0/a/begin claim/2/2/0 changes/2/1/x copy/1/0/1/b/end copy/2/2/0/y/begin changes/2/3/z copy/2/3/1//end"},
		{name: "a claim in a later round", want: "abcd", at: "2 2 whole",
			log: round + "copy/1/1/0/x/begin/whole claim/2/2/1/whole copy/1/1/1/x/end/whole changes/2/2/d"},
		{name: "a claim that voids what was", want: "yz", at: "2 9 whole",
			log: round + "claim/2/2/1/reset changes/2/2/x copy/2/8/0/y/begin changes/2/9/z copy/2/9/1//end"},

		{name: "a round whose claim is gone", log: "changes/1/7/x copy/2/9/0/a/begin changes/1/8/x copy/2/9/1/b/end changes/1/9/x changes/2/10/c",
			want: "abc", at: "2 10 whole"},
		{name: "it takes the place of an earlier one", log: round + "copy/3/1/0/x/begin changes/3/2/y copy/3/2/1/z/end changes/1/3/q",
			want: "xyz", at: "3 2 whole"},
		{name: "changes whose claim is gone", log: round + "changes/2/2/d", want: "abc", at: "2 0 "},

		{name: "parts", log: round + "changes/1/2/d/1of2 changes/1/2/e/2of2", want: "abcde", at: "1 2 whole"},
		{name: "a part alone", log: "changes/1/1/x/2of2 " + round + "changes/1/2/d/1of2", want: "abc", at: "1 1 whole"},
		{name: "parts sent again", log: round + "changes/1/2/d/1of2 changes/1/2/d/1of2 changes/1/2/e/2of2 changes/1/2/e/2of2", want: "abcde", at: "1 2 whole"},
		{name: "parts with those of an owner that is none between", log: round + "claim/2/2/1 changes/2/2/d/1of2 changes/1/2/x/1of2 changes/1/2/x/2of2 changes/2/2/e/2of2",
			want: "abcde", at: "2 2 whole"},
		{name: "parts that a claim parts", log: round + "changes/1/2/x/1of2 claim/2/2/1 changes/1/2/x/2of2 changes/2/2/d", want: "abcd", at: "2 2 whole"},
		{name: "parts of two owners", log: round + "changes/1/2/x/1of2 claim/2/2/1 changes/2/2/x/2of2", want: "abc", at: "2 1 whole"},

		{name: "a slice that is there", local: &logPlace{known: true, whole: true, epoch: 1, generation: 1, seq: 2},
			log: round + "changes/1/2/x changes/1/3/d", want: "d", at: "1 3 whole"},
		{name: "and has what the log has when it is claimed", local: &logPlace{known: true, whole: true, epoch: 1, generation: 1, seq: 2},
			log: round + "changes/1/2/x claim/2/2/2 changes/2/3/d", want: "d", at: "2 3 whole"},
		{name: "and has more", local: &logPlace{known: true, whole: true, epoch: 1, generation: 1, seq: 2},
			log: round + "claim/2/2/1 changes/2/2/d", err: errLogStale},
		{name: "and is void", local: &logPlace{known: true, whole: true, epoch: 1, generation: 1, seq: 1},
			log: round + "claim/2/2/1/reset", err: errLogStale},
		{name: "and lacks a claim", local: &logPlace{known: true, whole: true, epoch: 1, generation: 1, seq: 1},
			log: "changes/2/2/d", err: errLogStale},
		{name: "an earlier claim", local: &logPlace{known: true, whole: true, epoch: 2, generation: 2, seq: 1},
			log: round + "changes/1/2/x claim/2/2/1 changes/2/2/d", want: "d", at: "2 2 whole"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got strings.Builder
			r := &logReader{
				apply: func(body []byte) error { got.Write(body); return nil },
				wipe:  func() error { got.Reset(); return nil },
			}
			if c.local != nil {
				r.logPlace, r.local, r.logs = *c.local, true, 0
			}
			var err error
			for i, written := range strings.Fields(c.log) {
				record := writtenRecord(t, written)
				record.Offset = int64(i)
				if err = r.take(&record); err != nil {
					break
				}
			}
			if !errors.Is(err, c.err) || err != nil && c.err == nil {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			state := ""
			switch {
			case r.whole:
				state = "whole"
			case r.known:
				state = "known"
			}
			if at := fmt.Sprintf("%d %d %s", r.epoch, r.seq, state); at != c.at {
				t.Errorf("it is at %q, want %q", at, c.at)
			}
			if r.known && got.String() != c.want || !r.known && r.whole {
				t.Errorf("%q counts, want %q", got.String(), c.want)
			}
		})
	}
}

// writtenRecord makes a record of how TestLogReader writes it.
func writtenRecord(t *testing.T, written string) Record {
	t.Helper()
	parts := strings.Split(written, "/")
	number := func(i int) (n uint64) {
		if _, err := fmt.Sscan(parts[i], &n); err != nil {
			t.Fatalf("%s: %v", written, err)
		}
		return n
	}
	h, rest := logRecord{epoch: number(1), parts: 1}, 4
	switch body := parts[len(parts)-1]; parts[0] {
	case "claim":
		h.kind, h.generation, h.seq = logClaim, number(2), number(3)
		h.body = appendClaim(body+parts[1], "{}")
	case "changes":
		h.kind, h.seq, h.body = logChanges, number(2), []byte(parts[3])
	case "copy":
		h.kind, h.seq, h.number, h.body, rest = logCopy, number(2), number(3), []byte(parts[4]), 5
	}
	for _, flag := range parts[rest:] {
		switch flag {
		case "whole":
			h.flags |= logWhole
		case "begin":
			h.flags |= logBegin
			h.body = append(fields.AppendString(nil, "{}"), h.body...)
		case "end":
			h.flags |= logEnd
		case "reset":
			h.flags |= logReset
		case "fresh":
			h.flags |= logFresh
		case "1of2":
			h.parts = 2
		case "2of2":
			h.part, h.parts = 1, 2
		default:
			t.Fatalf("%s: what is %q?", written, flag)
		}
	}
	return Record{Value: h.append(nil)}
}

// What is no record of a changelog, or of a later release, is an error that says where it is.
func TestLogReaderRefuses(t *testing.T) {
	whole := logRecord{kind: logChanges, epoch: 1, seq: 1, parts: 1}
	later := whole.append(nil)
	later[0]++
	for name, value := range map[string][]byte{
		"nothing": {}, "a kind that there is not": {logVersion, 9, 0, 1, 1, 1, 0, 0, 1}, "cut": whole.append(nil)[:5],
		"a part past the last": {logVersion, logChanges, 0, 1, 1, 1, 0, 1, 1}, "a later format": later,
		"a claim without a name": (&logRecord{kind: logClaim, epoch: 1, parts: 1}).append(nil),
	} {
		r := &logReader{}
		if err := r.take(&Record{Value: value, Offset: 7}); err == nil || !strings.Contains(err.Error(), "offset 7") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
