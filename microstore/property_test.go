package microstore

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// model is the store as plain maps.
type model struct {
	entries map[string]map[string]Entry // history, key and match: by time and id
	rows    map[string]string
	timers  map[string]Timer
	chunks  []string
	outbox  map[int64]string
	nextRow int64
	meta    string
}

func newModel() *model {
	return &model{entries: map[string]map[string]Entry{}, rows: map[string]string{}, timers: map[string]Timer{}, outbox: map[int64]string{}, nextRow: 1}
}

func (m *model) clone() *model {
	c := *m
	c.entries = map[string]map[string]Entry{}
	for k, v := range m.entries {
		c.entries[k] = maps.Clone(v)
	}
	c.rows, c.timers, c.outbox, c.chunks = maps.Clone(m.rows), maps.Clone(m.timers), maps.Clone(m.outbox), slices.Clone(m.chunks)
	return &c
}

func (m *model) live(list string, floor int64) []Entry {
	var live []Entry
	for _, e := range m.entries[list] {
		if e.Time >= floor {
			live = append(live, e)
		}
	}
	slices.SortFunc(live, func(a, b Entry) int { return a.compare(b.Time, b.ID) })
	return live
}

func timerKey(tm Timer) string {
	return fmt.Sprintf("%020d/%d/%s/%s", tm.At+1000, tm.Step, tm.Key, tm.ID)
}

// machine drives a store and the model side by side. now is the state with what is not committed, saved the
// one of the last commit.
type machine struct {
	t          *rapid.T
	dir        string
	round      int
	set        settings
	s          *Store
	task       *Task
	plain      *History
	bounded    *History
	table      *Table
	timers     *Timers
	log        *Log
	outbox     *Outbox
	batches    []*Batch // one per lane; keys are dealt to lanes by shard
	now, saved *model
	marks      []mark
	floor      int64
	loaded     int64 // Load's bound
	full       bool  // what the disk says
	pending    chan error
}

type mark struct {
	marks []Mark
	state *model
}

var histories = map[string]HistoryConfig{"plain": {}, "bounded": {MaxCount: 3, MaxBytes: 60}}

func (m *machine) must(err error) {
	if err != nil {
		m.t.Fatalf("%+v", err)
	}
}

func (m *machine) open() {
	var err error
	m.s, err = open(small(m.dir), m.set)
	m.must(err)
	m.task, err = m.s.Task("task")
	m.must(err)
	m.plain, err = m.task.History("plain", histories["plain"])
	m.must(err)
	m.bounded, err = m.task.History("bounded", histories["bounded"])
	m.must(err)
	m.table, err = m.task.Table("table")
	m.must(err)
	m.timers, err = m.task.Timers()
	m.must(err)
	m.log, err = m.s.Log("log")
	m.must(err)
	m.outbox, err = m.s.Outbox("outbox")
	m.must(err)
	m.loaded = math.MinInt64
	m.begin()
}

func (m *machine) begin() {
	m.batches = []*Batch{m.s.NewBatch(), m.s.NewBatch()}
	m.marks = nil
}

func (m *machine) batch(key string) *Batch { return m.batches[Shard(key)%2] }

func (m *machine) key() string {
	return rapid.SampledFrom([]string{"a", "b", "c", "dd", ""}).Draw(m.t, "key")
}
func (m *machine) match() string {
	return rapid.SampledFrom([]string{"", "x", "yy"}).Draw(m.t, "match")
}
func (m *machine) time() int64   { return m.floor + rapid.Int64Range(-20, 100).Draw(m.t, "time") }
func (m *machine) id() string    { return fmt.Sprint("id", rapid.IntRange(0, 60).Draw(m.t, "id")) }
func (m *machine) value() []byte { return make([]byte, rapid.IntRange(0, 40).Draw(m.t, "value")) }

func (m *machine) history() (string, *History) {
	if rapid.Bool().Draw(m.t, "bounded") {
		return "bounded", m.bounded
	}
	return "plain", m.plain
}

func (m *machine) Append(t *rapid.T) {
	m.t = t
	name, h := m.history()
	key, match := m.key(), m.match()
	e := Entry{Time: m.time(), ID: m.id(), Value: m.value()}
	added, err := h.Append(m.batch(key), key, match, &e, m.floor)

	list := name + "|" + key + "|" + match
	live := m.now.live(list, m.floor)
	if e.Time < m.floor {
		if added || err != ErrExpired {
			t.Fatalf("append before the floor: %v %v", added, err)
		}
		return
	}
	if slices.ContainsFunc(live, func(o Entry) bool { return o.ID == e.ID }) {
		if added || err != nil {
			t.Fatalf("append of a duplicate: %v %v", added, err)
		}
		return
	}
	live = append(live, e)
	slices.SortFunc(live, func(a, b Entry) int { return a.compare(b.Time, b.ID) })
	gone := 0
	if cfg := histories[name]; cfg.MaxCount > 0 {
		bytes := int64(0)
		for _, o := range live {
			bytes += entryBytes(&o)
		}
		for gone < len(live)-1 && (len(live)-gone > cfg.MaxCount || bytes > cfg.MaxBytes) {
			bytes -= entryBytes(&live[gone])
			gone++
		}
	}
	if slices.ContainsFunc(live[:gone], func(o Entry) bool { return o.ID == e.ID && o.Time == e.Time }) {
		if added || err != ErrExpired {
			t.Fatalf("append of one that exceeds the bound itself: %v %v", added, err)
		}
		return
	}
	if !added || err != nil {
		t.Fatalf("append: %v %v", added, err)
	}
	if m.now.entries[list] == nil {
		m.now.entries[list] = map[string]Entry{}
	}
	m.now.entries[list][fmt.Sprint(e.Time, "/", e.ID)] = e
	for _, o := range live[:gone] {
		delete(m.now.entries[list], fmt.Sprint(o.Time, "/", o.ID))
	}
}

func (m *machine) DeleteEntry(t *rapid.T) {
	m.t = t
	name, h := m.history()
	key, match := m.key(), m.match()
	list := name + "|" + key + "|" + match
	live := m.now.live(list, m.floor)
	e := Entry{Time: m.floor + 5, ID: "id1"}
	if len(live) > 0 {
		e = rapid.SampledFrom(live).Draw(t, "entry")
	}
	k := fmt.Sprint(e.Time, "/", e.ID)
	_, want := m.now.entries[list][k]
	got, err := h.Delete(m.batch(key), key, match, e.Time, e.ID)
	m.must(err)
	if got != want {
		t.Fatalf("delete: %v, want %v", got, want)
	}
	delete(m.now.entries[list], k)
}

func (m *machine) View(t *rapid.T) {
	m.t = t
	_, h := m.history()
	m.compareView(h, m.key(), m.match(), m.floor)
}

func (m *machine) compareView(h *History, key, match string, floor int64) {
	v, err := h.View(key, match, floor)
	m.must(err)
	want := m.now.live(h.name+"|"+key+"|"+match, floor)
	if v.Len() != len(want) {
		m.t.Fatalf("%s of %q %q from %d has %d entries, want %d", h.name, key, match, floor, v.Len(), len(want))
	}
	for i, w := range want {
		if e := v.At(i); e.Time != w.Time || e.ID != w.ID || string(e.Value) != string(w.Value) {
			m.t.Fatalf("entry %d is %v, want %v", i, e, w)
		}
	}
}

func (m *machine) Floor(t *rapid.T) { m.floor += rapid.Int64Range(0, 60).Draw(t, "by") }

func (m *machine) Table(t *rapid.T) {
	m.t = t
	key := m.key()
	b := m.batch(key)
	switch rapid.IntRange(0, 2).Draw(t, "op") {
	case 0:
		m.must(m.table.Delete(b, key))
		delete(m.now.rows, key)
	default:
		value := m.value()
		m.must(m.table.Set(b, key, value, len(value)))
		m.now.rows[key] = string(value)
	}
	m.compareRow(m.key())
}

func (m *machine) compareRow(key string) {
	value, data, ok, err := m.table.Get(key)
	m.must(err)
	want, exists := m.now.rows[key]
	if ok != exists || string(value) != want || (ok && data != nil && data != len(want)) {
		m.t.Fatalf("row %q is %q %v %v, want %q %v", key, value, data, ok, want, exists)
	}
}

func (m *machine) timer() Timer {
	return Timer{At: m.floor + rapid.Int64Range(-3, 12).Draw(m.t, "at"), Step: rapid.Uint32Range(0, 1).Draw(m.t, "step"),
		Key: m.key(), ID: rapid.SampledFrom([]string{"", "t"}).Draw(m.t, "id")}
}

func (m *machine) SetTimer(t *rapid.T) {
	m.t = t
	tm := m.timer()
	tm.Payload = m.value()
	m.must(m.timers.Set(m.batch(tm.Key), tm))
	m.now.timers[timerKey(tm)] = tm
	m.hasTimer(tm)
}

func (m *machine) DeleteTimer(t *rapid.T) {
	m.t = t
	tm := m.timer()
	if keys := slices.Sorted(maps.Keys(m.now.timers)); len(keys) > 0 && rapid.Bool().Draw(t, "present") {
		tm = m.now.timers[rapid.SampledFrom(keys).Draw(t, "timer")]
	}
	m.hasTimer(tm)
	m.must(m.timers.Delete(m.batch(tm.Key), tm))
	delete(m.now.timers, timerKey(tm))
	m.hasTimer(tm)
}

func (m *machine) hasTimer(tm Timer) {
	has, err := m.timers.Has(tm)
	m.must(err)
	if _, want := m.now.timers[timerKey(tm)]; has != want {
		m.t.Fatalf("timer %v is set: %v, want %v", tm, has, want)
	}
}

func (m *machine) PopTimers(t *rapid.T) {
	m.t = t
	key := m.key()
	upTo := min(m.floor+rapid.Int64Range(-3, 12).Draw(t, "upTo"), m.loaded)
	for range rapid.IntRange(1, 4).Draw(t, "count") {
		want := ""
		for k, tm := range m.now.timers {
			if Shard(tm.Key) == Shard(key) && tm.At <= upTo && (want == "" || m.before(tm, m.now.timers[want])) {
				want = k
			}
		}
		tm, ok := m.timers.Pop(m.batch(key), Shard(key), upTo)
		if ok != (want != "") {
			t.Fatalf("pop up to %d (loaded %d): %v %v, want %q", upTo, m.loaded, tm, ok, want)
		}
		if !ok {
			return
		}
		if timerKey(tm) != want || string(tm.Payload) != string(m.now.timers[want].Payload) {
			t.Fatalf("popped %v, want %v", tm, m.now.timers[want])
		}
		delete(m.now.timers, want)
	}
}

func (m *machine) before(a, b Timer) bool {
	return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Step, b.Step), cmp.Compare(a.Key, b.Key), cmp.Compare(a.ID, b.ID)) < 0
}

// between is a point between batches: Load and Sweep are allowed there, with the commit possibly under way.
func (m *machine) between() {
	if rapid.Bool().Draw(m.t, "load") {
		upTo := m.floor + rapid.Int64Range(-3, 12).Draw(m.t, "upTo")
		bound, exact, err := m.timers.Load(upTo, rapid.IntRange(1, 5).Draw(m.t, "limit"))
		m.must(err)
		if bound > upTo {
			m.t.Fatalf("bound %d is after %d", bound, upTo)
		}
		if !exact {
			bound--
		}
		m.loaded = max(m.loaded, bound)
		at, ok, err := m.timers.Next()
		m.must(err)
		for _, tm := range m.now.timers {
			if !ok || at > tm.At {
				m.t.Fatalf("next timer is %d %v, but there is %v", at, ok, tm)
			}
		}
	}
	if rapid.Bool().Draw(m.t, "sweep") {
		_, err := m.plain.Sweep(m.batches[0], m.floor, rapid.IntRange(1, 50).Draw(m.t, "scan"))
		m.must(err)
		_, err = m.bounded.Sweep(m.batches[1], m.floor, 10)
		m.must(err)
	}
}

func (m *machine) Commit(t *rapid.T) {
	m.t = t
	m.wait()
	type added struct {
		row  *Row
		data string
	}
	var chunk *Appended
	var row added
	if rapid.Bool().Draw(t, "append") {
		data := fmt.Sprint("chunk", len(m.now.chunks))
		chunk = m.log.Append(m.batches[0], 2, 1, 2, []byte(data))
		m.now.chunks = append(m.now.chunks, data)
	}
	if rapid.Bool().Draw(t, "row") {
		row = added{data: fmt.Sprint("row", m.now.nextRow)}
		row.row = m.outbox.Add(m.batches[1], []byte(row.data))
		m.now.outbox[m.now.nextRow] = row.data
		m.now.nextRow++
	}
	if rapid.Bool().Draw(t, "remove") && len(m.saved.outbox) > 0 {
		seq := rapid.SampledFrom(slices.Sorted(maps.Keys(m.saved.outbox))).Draw(t, "seq")
		m.outbox.Remove(m.batches[0], seq)
		delete(m.now.outbox, seq)
	}
	m.now.meta = fmt.Sprint(rapid.Int().Draw(t, "meta"))
	m.task.SetMeta(m.batches[0], []byte(m.now.meta))

	want := int64(2*len(m.now.chunks) - 2)
	pending := make(chan error, 1)
	batches := m.batches
	go func() {
		err := m.s.Commit(context.Background(), batches...)
		if err == nil && chunk != nil && chunk.Base() != want {
			err = fmt.Errorf("chunk at %d, want %d", chunk.Base(), want)
		}
		pending <- err
	}()
	m.pending = pending
	m.saved = m.now.clone()
	m.begin()
	m.between()
	if rapid.Bool().Draw(t, "wait") {
		m.wait()
	}
}

func (m *machine) wait() {
	if m.pending != nil {
		m.must(<-m.pending)
		m.pending = nil
	}
}

func (m *machine) Mark(*rapid.T) {
	m.marks = append(m.marks, mark{[]Mark{m.batches[0].Mark(), m.batches[1].Mark()}, m.now.clone()})
}

func (m *machine) Rollback(t *rapid.T) {
	m.t = t
	to := mark{[]Mark{{}, {}}, m.saved.clone()}
	if n := len(m.marks); n > 0 {
		i := rapid.IntRange(0, n-1).Draw(t, "mark")
		to, m.marks = m.marks[i], m.marks[:i]
	}
	for i, b := range m.batches {
		b.Rollback(to.marks[i])
	}
	m.now = to.state
}

// Refused rolls a batch back after its commit was refused for want of space, with Load having run meanwhile.
func (m *machine) Refused(t *rapid.T) {
	m.t = t
	m.wait()
	if m.dir == "" {
		return
	}
	m.full = true
	m.s.space.looked = false
	err := m.s.Commit(context.Background(), m.batches...)
	m.full = false
	if err == nil {
		t.Fatal("commit on a full disk")
	}
	old := m.batches
	m.begin()
	if rapid.Bool().Draw(t, "load") {
		bound, exact, err := m.timers.Load(m.floor+8, 3)
		m.must(err)
		if exact {
			m.loaded = max(m.loaded, bound)
		}
	}
	for _, b := range old {
		b.Rollback(Mark{})
	}
	m.now = m.saved.clone()
}

func (m *machine) Reopen(t *rapid.T) {
	m.t = t
	if m.dir == "" || rapid.IntRange(0, 2).Draw(t, "reopen") > 0 { // it takes long
		return
	}
	m.wait()
	if rapid.Bool().Draw(t, "kill") {
		m.round++
		dir := fmt.Sprint(m.dir, "-", m.round)
		m.must(copyImage(m.dir, dir))
		m.must(m.s.Close())
		m.must(os.RemoveAll(m.dir))
		m.dir = dir
	} else {
		m.must(m.s.Close())
	}
	m.now = m.saved.clone()
	m.open()
	m.compareAll()
}

// compareAll compares everything that can be seen, committed or not.
func (m *machine) compareAll() {
	for name := range histories {
		h := map[string]*History{"plain": m.plain, "bounded": m.bounded}[name]
		for _, key := range []string{"a", "b", "c", "dd", ""} {
			for _, match := range []string{"", "x", "yy"} {
				m.compareView(h, key, match, m.floor)
			}
		}
	}
	for _, key := range []string{"a", "b", "c", "dd", ""} {
		m.compareRow(key)
	}
	m.wait()
	meta, err := m.task.Meta()
	m.must(err)
	if string(meta) != m.saved.meta {
		m.t.Fatalf("meta is %q, want %q", meta, m.saved.meta)
	}
	rows, err := m.outbox.Rows(0, 1<<20)
	m.must(err)
	got := map[int64]string{}
	for _, row := range rows {
		got[row.Seq()] = string(row.Data)
	}
	if n, _ := m.outbox.Backlog(); !maps.Equal(got, m.saved.outbox) || n != len(got) {
		m.t.Fatalf("outbox has %v, backlog %d, want %v", got, n, m.saved.outbox)
	}
	for offset := int64(0); offset < m.log.End(); {
		chunks, err := m.log.Read(offset, 20)
		m.must(err)
		for _, c := range chunks {
			if c.Base != offset || string(c.Data) != m.saved.chunks[offset/2] {
				m.t.Fatalf("chunk %v at offset %d, want %q", c, offset, m.saved.chunks[offset/2])
			}
			offset = c.End()
		}
	}
	if m.log.End() != int64(2*len(m.saved.chunks)) {
		m.t.Fatalf("log ends at %d, want %d", m.log.End(), 2*len(m.saved.chunks))
	}
}

func runModel(t *testing.T, onDisk bool) {
	rapid.Check(t, func(rt *rapid.T) {
		// a budget for everything, and one for a few lists
		cache := rapid.SampledFrom([]int64{1 << 20, 1500}).Draw(rt, "cache")
		m := &machine{t: rt, now: newModel(), saved: newModel(), floor: 100}
		m.set = settings{cache: cache, tail: cache, free: func(string) (int64, error) {
			if m.full {
				return 0, nil
			}
			return 1 << 40, nil
		}}
		if onDisk {
			dir, err := os.MkdirTemp("", "microstore")
			m.must(err)
			m.dir = dir
			defer func() { _ = os.RemoveAll(m.dir) }()
		}
		m.open()
		defer func() {
			if m.pending != nil {
				<-m.pending
			}
			_ = m.s.Close()
		}()
		rt.Repeat(rapid.StateMachineActions(m2{m}))
		m.compareAll()
	})
}

// m2 adds the check that rapid runs after every action.
type m2 struct{ *machine }

func (m m2) Check(t *rapid.T) {
	m.t = t
	m.compareView(m.plain, "a", "", m.floor)
	m.compareRow("a")
	if used := m.s.cache.used.Load(); used < 0 {
		t.Fatalf("cache uses %d bytes", used)
	}
}

func TestModelInMemory(t *testing.T) { runModel(t, false) }

// TestModelOnDisk adds reopening, clean and from the image of a killed process, and a full disk.
func TestModelOnDisk(t *testing.T) { runModel(t, true) }
