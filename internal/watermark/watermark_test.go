package watermark

import (
	"math/big"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// anyTime draws times near the edges as often as others.
var anyTime = rapid.OneOf(rapid.Int64(), rapid.Int64Range(Min, Min+10), rapid.Int64Range(Max-10, Max))

var anyDuration = rapid.OneOf(rapid.Int64Range(0, Max), rapid.Int64Range(0, 10))

func clamp(n *big.Int) int64 {
	switch low, high := big.NewInt(Min+1), big.NewInt(Max-1); {
	case n.Cmp(low) < 0:
		return Min + 1
	case n.Cmp(high) > 0:
		return Max - 1
	}
	return n.Int64()
}

func TestBehindAndAheadDoNotOverflow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at, d := anyTime.Draw(t, "t"), anyDuration.Draw(t, "d")
		behind, ahead := Behind(at, time.Duration(d)), Ahead(at, time.Duration(d))
		if at == Min || at == Max {
			if behind != at || ahead != at {
				t.Fatalf("%d became %d and %d", at, behind, ahead)
			}
			return
		}
		if want := clamp(new(big.Int).Sub(big.NewInt(at), big.NewInt(d))); behind != want {
			t.Errorf("behind %d, want %d", behind, want)
		}
		if want := clamp(new(big.Int).Add(big.NewInt(at), big.NewInt(d))); ahead != want {
			t.Errorf("ahead %d, want %d", ahead, want)
		}
	})
}

func TestBoundedIsBehindTheLatest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b Bounded
		b.Bound = time.Duration(rapid.Int64Range(0, 1000).Draw(t, "bound"))
		b.Reset(Min, false)
		if b.Now() != Min {
			t.Fatal(b.Now())
		}
		latest := int64(Min)
		for _, at := range rapid.SliceOfN(rapid.Int64Range(-1e6, 1e6), 1, 20).Draw(t, "times") {
			before := b.Now()
			b.Observe(at)
			latest = max(latest, at)
			if now := b.Now(); now != latest-int64(b.Bound) || now < before {
				t.Fatalf("%d after %d, latest %d", now, before, latest)
			}
			var other Bounded
			other.Bound = b.Bound
			other.Reset(b.State())
			if other.Now() != b.Now() {
				t.Fatal("the state does not tell it")
			}
		}
		if b.End(); b.Now() != Max {
			t.Fatal(b.Now())
		}
	})
}

func TestMergedIsTheLeast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(t, "producers")
		m, model := NewMerged(n), make([]int64, n)
		for i := range model {
			model[i] = Min
		}
		t.Repeat(map[string]func(*rapid.T){
			"observe": func(t *rapid.T) {
				producer, at := rapid.IntRange(-1, n).Draw(t, "producer"), anyTime.Draw(t, "t")
				clone, before := m.Clone(), m.Now()
				m.Observe(producer, at)
				if producer >= 0 && producer < n {
					model[producer] = max(model[producer], at)
				}
				if clone.Now() != before {
					t.Fatal("a clone moved")
				}
			},
			"restart": func(*rapid.T) {
				state := m.State()
				m = NewMerged(n)
				for i, at := range state {
					m.Observe(i, at)
				}
			},
			"": func(t *rapid.T) {
				if m.Now() != slices.Min(model) {
					t.Fatalf("%d, want the least of %v", m.Now(), model)
				}
			},
		})
	})
}

func TestMergedDoesNotWaitForIdleProducers(t *testing.T) {
	m := NewMerged(3)
	m.Observe(0, 10)
	m.Idle(1)
	if m.Now() != Min || m.AllIdle() {
		t.Errorf("%d while producer 2 has said nothing", m.Now())
	}
	m.Idle(2)
	if m.Now() != 10 {
		t.Errorf("%d, want 10: the others are idle", m.Now())
	}
	m.Observe(1, 5) // it is back, behind: what was promised stays
	m.Observe(0, 20)
	if m.Now() != 10 {
		t.Errorf("%d, want 10", m.Now())
	}
	other := m.Clone()
	m.Observe(1, 15)
	if m.Now() != 15 || other.Now() != 10 {
		t.Errorf("%d and %d, want 15 and 10", m.Now(), other.Now())
	}
	m.Idle(0)
	m.Idle(1)
	m.Idle(7)
	if m.Now() != 15 || !m.AllIdle() {
		t.Errorf("%d, all idle %t", m.Now(), m.AllIdle())
	}
}
