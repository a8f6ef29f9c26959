package microstore

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"
)

func TestPack(t *testing.T) {
	random := make([]byte, 4000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	alike := bytes.Repeat([]byte(`{"customer":"ada","amount":30}`), 200)
	for _, test := range []struct {
		name  string
		data  []byte
		kind  byte
		least int // bytes saved
	}{
		{"nothing", nil, packedNot, -1},
		{"small", alike[:packFrom-1], packedNot, -1},
		{"random", random, packedNot, -1},
		{"alike", alike, packedS2, len(alike) / 2},
	} {
		value := pack(test.data, apart)
		if value[0] != test.kind || len(test.data)-len(value) < test.least {
			t.Errorf("%s: kind %d and %d bytes of %d", test.name, value[0], len(value), len(test.data))
		}
		data, err := unpack(value)
		if err != nil || !bytes.Equal(data, test.data) {
			t.Errorf("%s: %d bytes came back, not %d: %v", test.name, len(data), len(test.data), err)
		}
	}
	value := pack(alike, apart)
	if cap(value) > len(value)+1024 {
		t.Errorf("a packed value of %d bytes keeps %d", len(value), cap(value))
	}
	for _, value := range [][]byte{nil, {7, 1, 2}, value[:len(value)/2], {packedS2}} {
		if _, err := unpack(value); !errors.Is(err, ErrDamaged) {
			t.Errorf("unpack %x: %v", value[:min(len(value), 8)], err)
		}
	}
}

// What is given to an outbox is the caller's again: the store has its own copy, small or large.
func TestRowsAreCopies(t *testing.T) {
	s, err := Open(Config{InMemory: true})
	check(t, err)
	defer s.Close()
	o, err := s.Outbox("o")
	check(t, err)
	room := bytes.Repeat([]byte("a"), 10_000)
	b := s.NewBatch()
	for i, size := range []int{10, 10_000} {
		data := room[:size]
		for j := range data {
			data[j] = byte('a' + i)
		}
		o.Add(b, data)
	}
	clear(room)
	check(t, s.Commit(context.Background(), b))
	rows, err := o.Rows(0, 1<<20)
	check(t, err)
	if len(rows) != 2 || string(rows[0].Data) != "aaaaaaaaaa" || string(rows[1].Data) != string(bytes.Repeat([]byte("b"), 10_000)) {
		t.Errorf("%d rows, not as they were given", len(rows))
	}
}
