package pgtail_test

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
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
	"github.com/millrace/millrace/outbox/pgtail"
)

// fileSink is a publisher of which nothing is known but a file: a line for each record.
type fileSink struct{ path string }

func (s fileSink) Publish(_ context.Context, _ string, records []framework.Record) error {
	var b bytes.Buffer
	for _, r := range records {
		fmt.Fprintf(&b, "%s %s\n", r.Key, r.ID)
	}
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b.Bytes())
	return errors.Join(err, f.Close())
}

func (s fileSink) Close() error { return nil }

func (s fileSink) records(t testing.TB) (all []framework.Record) {
	t.Helper()
	text, err := os.ReadFile(s.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) != 2 || !strings.HasSuffix(line, "\n") {
			t.Fatalf("torn line %q", line)
		}
		all = append(all, framework.Record{Key: fields[0], ID: fields[1]})
	}
	return all
}

func (d database) child(file, crash string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestRelayChild$")
	cmd.Env = append(os.Environ(), "PGTAIL_CHILD="+strings.Join([]string{d.Address, d.Name, file, crash}, "|"))
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd
}

// TestRelayChild is the process that dies; it is no test. It runs until it is killed, or SIGTERM ends it.
func TestRelayChild(t *testing.T) {
	fields := strings.Split(os.Getenv("PGTAIL_CHILD"), "|")
	if len(fields) != 4 {
		t.Skip("run by TestKill")
	}
	db, err := sql.Open("pgx", fields[0])
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	table, err := outbox.NewTable(outbox.Postgres, outbox.Config{Name: fields[1]})
	if err != nil {
		t.Fatal(err)
	}
	log, err := pgtail.New(table, fields[0], pgtail.Config{})
	if err != nil {
		t.Fatal(err)
	}
	config := database{log: log}.quick()
	config.Name, config.BatchRows, config.Lease = "relay", 20, 5*time.Second
	relay, err := outbox.NewRelay(table, db, fileSink{fields[2]}, config)
	if err != nil {
		t.Fatal(err)
	}
	if point, nth, ok := strings.Cut(fields[3], " "); ok {
		n, _ := strconv.ParseInt(nth, 10, 64)
		failpoint.Crash(point, n)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := relay.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

// Fault 1: the relay is killed before and after each of read, send, delete and the moving of the slot, while events are
// written, and run again: nothing is lost, the order is that of the commits, and what comes twice has the same id. Fault
// 2: at the end SIGTERM stops it in good order.
func TestKill(t *testing.T) {
	d := open(t, sqltest.Postgres(t))
	o, file := newOracle(), fileSink{filepath.Join(t.TempDir(), "sink")}
	put := func(r framework.Record) { d.write(t, r); o.commit(r) }
	killed := 0
	points := []string{
		"outbox.log.read", "outbox.send.before", "outbox.send.after", "outbox.delete.before", "outbox.delete.after",
		"outbox.log.ack.before", "outbox.log.ack.after",
	}
	for i, point := range points {
		cmd := d.child(file.path, fmt.Sprint(point, " ", 1+2*(i%2))) // at the first or the third time
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		exited := make(chan bool, 1)
		go func() { exited <- waitFor(cmd) }()
		for n, running := 1, true; running; n++ { // until it has died
			put(event(fmt.Sprint("key", n%3), o.size))
			select {
			case died := <-exited:
				running = false
				if died {
					killed++
				}
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	if killed != len(points) {
		t.Errorf("%d of %d relays were killed", killed, len(points))
	}
	cmd := d.child(file.path, "")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	put(event("last", 1))
	eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	t.Logf("%d events, %d duplicates", o.size, o.check(t, file.records(t)))
}

// waitFor waits for a child to be killed, and ends it after a while if it is not.
func waitFor(cmd *exec.Cmd) (killed bool) {
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	err := cmd.Wait()
	timer.Stop()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status, ok := exit.Sys().(syscall.WaitStatus)
		return ok && status.Signal() == syscall.SIGKILL
	}
	return false
}
