package outbox_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/outbox"
)

// fileSink is a publisher of which nothing is known but a file: a line for each record, with the relay's name.
type fileSink struct {
	path, name string
	pause      time.Duration // before each write
}

func (s fileSink) Publish(ctx context.Context, _ string, records []framework.Record) error {
	if s.pause > 0 {
		select {
		case <-time.After(s.pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var b bytes.Buffer
	for _, r := range records {
		fmt.Fprintf(&b, "%s %s %s\n", s.name, r.Key, r.ID)
	}
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b.Bytes())
	return errors.Join(err, f.Close())
}

func (s fileSink) Close() error { return nil }

// lines reads what relays wrote, as records of a sink, and who wrote each.
func (s fileSink) lines(t testing.TB) (all []framework.Record, by []string) {
	t.Helper()
	text, err := os.ReadFile(s.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) != 3 || !strings.HasSuffix(line, "\n") {
			t.Fatalf("torn line %q", line)
		}
		all, by = append(all, framework.Record{Key: fields[1], ID: fields[2]}), append(by, fields[0])
	}
	return all, by
}

// child is what a relay in a process of its own is told, by the environment.
type child struct {
	dialect                outbox.Dialect
	driver, address, table string
	file, name, crash      string
	pause, lease           time.Duration
	watermill              string // a topic of watermill-sql's, if any
	keep                   time.Duration
}

func (c child) command() *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestRelayChild$")
	cmd.Env = append(os.Environ(), "OUTBOX_CHILD="+strings.Join([]string{
		strconv.Itoa(int(c.dialect)), c.driver, c.address, c.table, c.file, c.name, c.crash, c.pause.String(), c.lease.String(), c.watermill, c.keep.String(),
	}, "|"))
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd
}

// TestRelayChild is the process that dies; it is no test. It runs until it is killed, or SIGTERM ends it.
func TestRelayChild(t *testing.T) {
	fields := strings.Split(os.Getenv("OUTBOX_CHILD"), "|")
	if len(fields) != 11 {
		t.Skip("run by TestKill and others")
	}
	dialect, _ := strconv.Atoi(fields[0])
	pause, _ := time.ParseDuration(fields[7])
	lease, _ := time.ParseDuration(fields[8])
	db, err := sql.Open(fields[1], fields[2])
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	outboxConfig := outbox.Config{Name: fields[3]}
	outboxConfig.KeepSent, _ = time.ParseDuration(fields[10])
	if fields[9] != "" {
		outboxConfig.Watermill = []outbox.WatermillTopic{{Topic: fields[9]}}
	}
	table, err := outbox.NewTable(outbox.Dialect(dialect), outboxConfig)
	if err != nil {
		t.Fatal(err)
	}
	config := quick()
	config.Name, config.BatchRows, config.Lease = fields[5], 20, lease
	relay, err := outbox.NewRelay(table, db, fileSink{path: fields[4], name: fields[5], pause: pause}, config)
	if err != nil {
		t.Fatal(err)
	}
	if point, nth, ok := strings.Cut(fields[6], " "); ok {
		n, _ := strconv.ParseInt(nth, 10, 64)
		failpoint.Crash(point, n)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := relay.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

// Fault 1: the relay is killed before and after each of read, send and delete, while events are written, and run again:
// nothing is lost, the order is kept, and what comes twice has the same id.
func TestKill(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, o := d.table(t, outbox.Config{}), newOracle()
		file := fileSink{path: filepath.Join(t.TempDir(), "sink")}
		c := child{dialect: d.Dialect, driver: d.Driver, address: d.Address, table: d.Name, file: file.path, name: "relay", lease: 5 * time.Second}
		if d.Dialect == outbox.Postgres {
			c.keep = time.Hour
		}
		killed := 0
		for _, point := range []string{"outbox.read", "outbox.send.before", "outbox.send.after", "outbox.delete.before", "outbox.delete.after"} {
			for _, nth := range []int{1, 3} {
				wait := writers(t, d, table, o, fmt.Sprintf("%s-%d-", point, nth), 2, 8)
				c.crash = fmt.Sprint(point, " ", nth)
				cmd := c.command()
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				exited := make(chan bool, 1)
				go func() { exited <- waitFor(cmd) }()
				wait()
				for n, running := 1, true; running; n++ { // until it has died
					r := event(fmt.Sprintf("%s-%d", point, nth), n)
					d.write(t, table, "topic-0", r)
					o.commit(r)
					select {
					case died := <-exited:
						running = false
						if died {
							killed++
						}
					case <-time.After(2 * time.Millisecond):
					}
				}
			}
		}
		if killed != 10 {
			t.Errorf("%d of 10 relays were killed", killed)
		}
		c.crash = ""
		cmd := c.command()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		last := event("last", 1)
		d.write(t, table, "topic-0", last)
		o.commit(last)
		eventually(t, "the last event is sent", func() bool {
			all, _ := file.lines(t)
			return len(all) > 0 && slices.ContainsFunc(all, func(r framework.Record) bool { return r.ID == last.ID })
		})
		eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
		// Fault 2: SIGTERM ends it in good order.
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
		s := newSink()
		s.all, _ = file.lines(t)
		t.Logf("%d events, %d duplicates", o.size(), o.check(t, s))
		if c.keep > 0 {
			checkKept(t, d, o)
		}
	})
}

// waitFor waits for a child to be killed, and ends it after a while if it is not.
func waitFor(cmd *exec.Cmd) (killed bool) {
	timer := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	err := cmd.Wait()
	timer.Stop()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status, ok := exit.Sys().(syscall.WaitStatus)
		return ok && status.Signal() == syscall.SIGKILL
	}
	return false
}

// Fault 8: of two relays one is stopped as a process past its lease, with events in memory, and goes on. The other has
// taken its slots over; nothing is lost, no order is inverted, and the first does not send what it had in memory.
func TestStoppedRelayGoesOn(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table, o := d.table(t, outbox.Config{}), newOracle()
		file := fileSink{path: filepath.Join(t.TempDir(), "sink"), name: "second"}
		put := func(from, to int) {
			for n := from; n < to; n++ {
				var records []framework.Record
				for k := range 20 {
					records = append(records, event(fmt.Sprint("key", k), n))
				}
				d.write(t, table, "events", records...)
				o.commit(records...)
			}
		}
		put(0, 25)
		first := child{dialect: d.Dialect, driver: d.Driver, address: d.Address, table: d.Name, file: file.path, name: "first",
			pause: 50 * time.Millisecond, lease: 500 * time.Millisecond}.command()
		if err := first.Start(); err != nil {
			t.Fatal(err)
		}
		kill := sync.OnceFunc(func() { _ = first.Process.Kill(); _ = first.Wait() })
		defer kill()
		eventually(t, "the first relay has sent something", func() bool { all, _ := file.lines(t); return len(all) > 0 })
		if err := first.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		stoppedAt, _ := file.lines(t)
		config := quick()
		config.Name, config.Lease = "second", 500*time.Millisecond
		relay, _ := start(t, d, table, file, config)
		stops, last := 1, time.Now()
		eventually(t, "the second has all slots, and has sent all", func() bool {
			if d.Dialect == outbox.SQLite && time.Since(last) > 3*time.Second {
				// It was stopped while it wrote, which keeps everybody else from writing to the file: stop it elsewhere.
				_ = first.Process.Signal(syscall.SIGCONT)
				time.Sleep(20 * time.Millisecond)
				_ = first.Process.Signal(syscall.SIGSTOP)
				stops, last = stops+1, time.Now()
			}
			return relay.Stats().Slots == outbox.Slots && d.count(t) == 0
		})
		if err := first.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		eventually(t, "they share again", func() bool { return relay.Stats().Slots == outbox.Slots/2 })
		put(25, 30)
		eventually(t, "all is sent", func() bool { return d.count(t) == 0 })
		kill()
		s := newSink()
		var by []string
		s.all, by = file.lines(t)
		duplicates := o.check(t, s)
		if late := duplicatesOf("first", s.all, by); late > 20*stops { // one group of the child's BatchRows was perhaps on its way
			t.Errorf("the stopped relay sent %d events that the other had sent", late)
		}
		if len(stoppedAt) == 25*20 {
			t.Error("the first relay was not stopped in time: nothing was shown")
		}
		t.Logf("stopped after %d, %d duplicates", len(stoppedAt), duplicates)
	})
}

// duplicatesOf counts what a relay sent that was there already.
func duplicatesOf(name string, all []framework.Record, by []string) (n int) {
	seen := map[string]bool{}
	for i, r := range all {
		if seen[r.ID] && by[i] == name {
			n++
		}
		seen[r.ID] = true
	}
	return n
}
