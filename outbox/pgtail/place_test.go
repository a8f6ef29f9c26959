package pgtail

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/outbox"
)

// The slot moves up to the end of a transaction exactly when all rows of it, and of those before it, are done.
func TestProgress(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p progress
		type model struct {
			end  LSN
			left map[int64]bool
		}
		var all []*model
		var out []int64
		id, place := int64(0), LSN(0)
		reading := false
		idle := LSN(0)
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				if reading {
					t.Skip("a transaction is being read")
				}
				p.begin()
				all, reading = append(all, &model{left: map[int64]bool{}}), true
			},
			"row": func(t *rapid.T) {
				if !reading {
					t.Skip("no transaction")
				}
				id++
				p.add(id)
				all[len(all)-1].left[id] = true
				out = append(out, id)
			},
			"commit": func(t *rapid.T) {
				if !reading {
					t.Skip("no transaction")
				}
				place += 10
				p.commit(place)
				all[len(all)-1].end, reading = place, false
			},
			"done": func(t *rapid.T) {
				if len(out) == 0 {
					t.Skip("no rows")
				}
				i := rapid.IntRange(0, len(out)-1).Draw(t, "i")
				for _, m := range all {
					delete(m.left, out[i])
				}
				p.finish(out[i])
				p.advance()
				out = append(out[:i], out[i+1:]...)
			},
			"keepalive": func(t *rapid.T) {
				place += 10
				if p.idle(place) == reading {
					t.Fatal("a keepalive counts exactly while no transaction is being read")
				}
				if len(out) == 0 && !reading {
					idle = place
				}
			},
			"": func(t *rapid.T) {
				want := idle
				for _, m := range all {
					if m.end == 0 || len(m.left) > 0 {
						break
					}
					want = max(want, m.end)
				}
				if p.done != want {
					t.Fatalf("done is %v, not %v", p.done, want)
				}
			},
		})
	})
}

// A server that says nothing is asked to, and is then taken for gone.
func TestSilence(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	got := make([]byte, 1+4+34)
	for quiet, want := range map[time.Duration]byte{silence / 10: 0, silence / 2: 1} {
		r := &reader{wire: near, heard: time.Now().Add(-quiet), progress: progress{done: 0x0102}}
		read := make(chan error, 1)
		go func() { _, err := io.ReadFull(far, got); read <- err }()
		if err := errors.Join(r.sendStatus(), <-read); err != nil {
			t.Fatal(err)
		}
		if string(got[:6]) != "d\x00\x00\x00\x26r" || string(got[6:14]) != "\x00\x00\x00\x00\x00\x00\x01\x02" || got[38] != want {
			t.Errorf("quiet for %v: %x", quiet, got)
		}
	}
	r := &reader{wire: near, heard: time.Now().Add(-2 * silence)}
	if err := r.sendStatus(); err == nil {
		t.Error("a server that says nothing is not taken for gone")
	}
}

func TestSnapshot(t *testing.T) {
	// Transactions 2^32+5 and +7 run; from +10 on none has begun.
	s, err := parseSnapshot("4294967300:4294967306:4294967301,4294967303")
	if err != nil {
		t.Fatal(err)
	}
	for xid, want := range map[uint32]bool{3: true, 4: true, 5: false, 6: true, 7: false, 8: true, 9: true, 10: false, 11: false, 1<<32 - 5: true} {
		if s.sees(xid) != want {
			t.Errorf("sees %d: %v", xid, !want)
		}
	}
	for text, want := range map[string]bool{
		"4294967300:4294967306:4294967301,4294967303":            true,
		"4294967300:4294967306:4294967303":                       false, // it saw 5
		"4294967300:4294967305:4294967301,4294967303":            true,
		"4294967300:4294967307:4294967301,4294967303":            false,
		"4294967290:4294967302:4294967301":                       true,
		"4294967290:4294967306:4294967301,4294967302,4294967303": true,
	} {
		other, err := parseSnapshot(text)
		if err != nil {
			t.Fatal(err)
		}
		if s.includes(other) != want {
			t.Errorf("includes %s: %v", text, !want)
		}
	}
	for _, text := range []string{"", "1:2", "1:x:", "1:2:x", "a:b:c:d"} {
		if _, err := parseSnapshot(text); err == nil {
			t.Errorf("%q is a snapshot", text)
		}
	}
}

func TestLSN(t *testing.T) {
	for text, want := range map[string]LSN{"0/0": 0, "16/B374D848": 0x16_B374D848, "FFFFFFFF/FFFFFFFF": 1<<64 - 1} {
		if got, err := parseLSN(text); err != nil || got != want || got.String() != text {
			t.Errorf("%s is %v, %v", text, got, err)
		}
	}
	if _, err := parseLSN("x"); err == nil {
		t.Error("x is a place")
	}
}

// What is read is not always what a server of today writes: it is an error, never a panic, and never a wrong row.
func FuzzDecode(f *testing.F) {
	relation := "R\x00\x00\x00\x01public\x00outbox\x00d\x00\x02\x01id\x00\x00\x00\x00\x14\xff\xff\xff\xff\x00payload\x00\x00\x00\x00\x11\xff\xff\xff\xff"
	insert := "I\x00\x00\x00\x01N\x00\x02t\x00\x00\x00\x0212t\x00\x00\x00\x06\\x00ff"
	message := encodeMessage(&outbox.LogRow{Slot: 3, Topic: "t", Time: "x"})
	f.Add([]byte(insert))
	f.Add([]byte("I\x00\x00\x00\x01N\x00\x02t\x00\x00\x00\x0212n"))
	f.Add([]byte("I\x00\x00\x00\x01N\x00\x02t\x00\x00\x00\x0212t\xff\xff\xff\xff"))
	f.Add([]byte("B\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x09"))
	f.Add([]byte("M\x01\x00\x00\x00\x00\x00\x00\x00\x09p\x00\x00\x00\x00" + string(rune(len(message))) + string(message)))
	f.Add([]byte(relation))
	var d decoder
	d.prefix = "p"
	if _, err := d.decode([]byte(relation)); err != nil {
		f.Fatal(err)
	}
	m, err := d.decode([]byte(insert))
	if err != nil || m.row == nil || m.row.ID != 12 || string(m.row.Record.Value) != "\x00\xff" {
		f.Fatalf("%+v, %v", m.row, err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := decoder{prefix: "p", tables: map[uint32][]setter{1: d.tables[1]}}
		m, err := d.decode(data)
		if err == nil && m.row != nil && m.row.ID == 0 {
			t.Errorf("a row without a number of %q", data)
		}
		if row, err := decodeMessage(data); err == nil && string(encodeMessage(row)) != string(data) {
			t.Errorf("%q was read as %+v", data, row)
		}
	})
}
