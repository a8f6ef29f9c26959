package microstore

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace/millrace/internal/failpoint"
)

// runChild is the process that the tests kill. Commit i of a task writes its number to every part of the
// store; what Commit has returned for is printed.
func runChild(dir, mode string) {
	if mode == "damaged" {
		openDamaged(dir)
	}
	point, count, _ := strings.Cut(mode, " ")
	if n, err := strconv.ParseInt(count, 10, 64); err == nil && n > 0 {
		failpoint.Crash(point, n)
	}
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
	}
	s, err := Open(small(dir))
	fail(err)
	done, commits := make(chan error), math.MaxInt
	if point == "store.seal" {
		commits = 20 // and then it is closed
	}
	for lane := range 2 { // two tasks, so that commits are merged
		go func() { done <- childTask(s, lane, commits) }()
	}
	for range 2 {
		fail(<-done)
	}
	fail(s.Close())
	os.Exit(0)
}

func childTask(s *Store, lane, commits int) error {
	p, err := childOpen(s, lane)
	if err != nil {
		return err
	}
	first, err := p.position()
	if err != nil {
		return err
	}
	for i := first + 1; commits > 0; i++ {
		commits--
		b, other := s.NewBatch(), s.NewBatch()
		if _, err := p.history.Append(b, "key", "", &Entry{Time: i, ID: fmt.Sprint(i), Value: make([]byte, 200)}, noFloor); err != nil {
			return err
		}
		number := binary.BigEndian.AppendUint64(nil, uint64(i))
		if err := p.table.Set(other, "row", number, nil); err != nil {
			return err
		}
		if err := p.timers.Set(other, Timer{At: i, Key: "key"}); err != nil {
			return err
		}
		p.log.Append(b, 1, i, i, number)
		p.outbox.Add(other, make([]byte, 40<<10)) // goes to the value log
		p.outbox.Remove(b, i-10)
		p.task.SetMeta(b, number)
		if err := s.Commit(context.Background(), b, other); err != nil {
			return err
		}
		fmt.Println(lane, i)
	}
	return nil
}

type childParts struct {
	task    *Task
	history *History
	table   *Table
	timers  *Timers
	log     *Log
	outbox  *Outbox
}

func childOpen(s *Store, lane int) (p childParts, err error) {
	name := fmt.Sprint("task", lane)
	if p.task, err = s.Task(name); err != nil {
		return p, err
	}
	if p.history, err = p.task.History("history", HistoryConfig{}); err != nil {
		return p, err
	}
	if p.table, err = p.task.Table("table"); err != nil {
		return p, err
	}
	if p.timers, err = p.task.Timers(); err != nil {
		return p, err
	}
	if p.log, err = s.Log(name); err != nil {
		return p, err
	}
	p.outbox, err = s.Outbox(name)
	return p, err
}

func (p childParts) position() (int64, error) {
	meta, err := p.task.Meta()
	if err != nil || meta == nil {
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(meta)), nil
}

// TestKill kills a child at many points, again and again on the same directory. Every time, each task must be
// at one commit, in all its parts, which is not before the last one that was acknowledged.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	for _, mode := range []string{
		"store.commit.before 1", "store.commit.after 1", "store.commit.before 40", "store.commit.after 25",
		"lines 1", "lines 50", "lines 333", "lines 700", "store.commit.before 90",
		"store.seal 1",
	} {
		acknowledged := killChild(t, dir, mode)
		t.Log(mode, acknowledged)
		verifyChild(t, dir, acknowledged)
	}
}

// killChild runs a child until it dies of its crash point or has printed a number of lines.
func killChild(t *testing.T, dir, mode string) (acknowledged [2]int64) {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "MICROSTORE_TEST_CHILD="+dir, "MICROSTORE_TEST_MODE="+mode)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	check(t, err)
	check(t, child.Start())
	limit := -1
	if count, ok := strings.CutPrefix(mode, "lines "); ok {
		limit = must[int](t)(strconv.Atoi(count))
	}
	lines := bufio.NewScanner(out)
	for n := 1; lines.Scan(); n++ {
		var lane int
		var i int64
		if _, err := fmt.Sscan(lines.Text(), &lane, &i); err != nil {
			t.Fatalf("child printed %q: %v", lines.Text(), err)
		}
		acknowledged[lane] = i
		if n == limit {
			check(t, child.Process.Kill())
		}
	}
	err = child.Wait()
	if child.ProcessState.ExitCode() != -1 {
		t.Fatalf("child ended by itself: %v", err)
	}
	return acknowledged
}

func verifyChild(t *testing.T, dir string, acknowledged [2]int64) {
	s, err := Open(small(dir))
	check(t, err)
	defer func() { check(t, s.Close()) }()
	must[Report](t)(s.Verify(context.Background()))
	for lane := range 2 {
		p := must[childParts](t)(childOpen(s, lane))
		n := must[int64](t)(p.position())
		if n < acknowledged[lane] {
			t.Errorf("task %d is at %d, commit %d was acknowledged", lane, n, acknowledged[lane])
		}
		v := must[View](t)(p.history.View("key", "", noFloor))
		if int64(v.Len()) != n || n > 0 && v.At(0).Time != 1 {
			t.Errorf("task %d is at %d, its history has %d entries", lane, n, v.Len())
		}
		row, _, ok, err := p.table.Get("row")
		check(t, err)
		if ok != (n > 0) || ok && int64(binary.BigEndian.Uint64(row)) != n {
			t.Errorf("task %d is at %d, its row is %x", lane, n, row)
		}
		if p.log.End() != n {
			t.Errorf("task %d is at %d, its log ends at %d", lane, n, p.log.End())
		}
		if rows := must[[]Row](t)(p.outbox.Rows(0, 1<<30)); int64(len(rows)) != min(n, 10) || n > 0 && rows[len(rows)-1].Seq() != n {
			t.Errorf("task %d is at %d, its outbox has %d rows", lane, n, len(rows))
		}
		_, _, err = p.timers.Load(1<<40, 1<<20)
		check(t, err)
		b := s.NewBatch()
		for i := int64(1); i <= n+1; i++ {
			if tm, ok := p.timers.Pop(b, Shard("key"), 1<<40); ok != (i <= n) || ok && tm.At != i {
				t.Fatalf("task %d is at %d, timer %d is %v %v", lane, n, i, tm, ok)
			}
		}
		b.Rollback(Mark{})
	}
}
