package fields_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/internal/fields"
)

// What is written is read; cut anywhere, it fails with zero values and without a panic.
func TestReader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, raw := rapid.String().Draw(t, "text"), rapid.SliceOf(rapid.Byte()).Draw(t, "raw")
		u, v, b := rapid.Uint64().Draw(t, "uvarint"), rapid.Int64().Draw(t, "varint"), rapid.Byte().Draw(t, "byte")
		all := append(fields.AppendString(nil, text), b)
		all = binary.AppendVarint(binary.AppendUvarint(all, u), v)
		all = fields.AppendString(all, string(raw))

		r := fields.Reader{Rest: all}
		if r.String() != text || r.Byte() != b || r.Uvarint() != u || r.Varint() != v || !bytes.Equal(r.Bytes(), raw) || r.Failed || len(r.Rest) > 0 {
			t.Fatalf("not what was written: %x", all)
		}
		r = fields.Reader{Rest: all[:rapid.IntRange(0, len(all)-1).Draw(t, "cut")]}
		_, _, _, _, last := r.String(), r.Byte(), r.Uvarint(), r.Varint(), r.Bytes()
		if !r.Failed || last != nil || r.Byte() != 0 || r.Uvarint() != 0 || r.Varint() != 0 || r.String() != "" {
			t.Fatalf("cut, and read all the same: %+v", r)
		}
	})
}

// A length that is longer than what follows, or a number of too many bytes, allocates nothing and fails.
func TestReaderOfWrongLengths(t *testing.T) {
	for _, data := range [][]byte{
		binary.AppendUvarint(nil, math.MaxUint64),
		bytes.Repeat([]byte{0xff}, 11),
		{5, 'a'},
		{},
	} {
		r := fields.Reader{Rest: data}
		if got := r.Bytes(); got != nil || !r.Failed {
			t.Errorf("%x: %x", data, got)
		}
	}
}

func BenchmarkReader(b *testing.B) {
	var data []byte
	for range 8 {
		data = binary.AppendVarint(fields.AppendString(data, "a field of some length"), 1<<40)
	}
	b.ReportAllocs()
	for b.Loop() {
		r := fields.Reader{Rest: data}
		for len(r.Rest) > 0 {
			_, _ = r.String(), r.Varint()
		}
	}
}
