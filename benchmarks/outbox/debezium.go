package main

import (
	"bufio"
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// errSkipped is wrapped by what says why a system cannot run here.
var errSkipped = errors.New("left out")

// debezium is the Java program in debezium/, which reads the log and writes to Kafka.
type debezium struct{}

func (s *debezium) create(b *bench) error {
	if err := buildDebezium(); err != nil {
		return err
	}
	for _, statement := range []string{
		// The columns that the outbox event router looks for.
		"CREATE TABLE " + b.name + " (id text PRIMARY KEY, aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL, payload bytea NOT NULL)",
		"CREATE PUBLICATION " + b.name + " FOR TABLE " + b.name + " WITH (publish = 'insert')",
		"SELECT pg_create_logical_replication_slot('" + b.name + "', 'pgoutput')",
	} {
		if _, err := b.db.ExecContext(b.ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

func (s *debezium) write(b *bench, tx *sql.Tx, events []int) error {
	var values []string
	var args []any
	for n, i := range events {
		values = append(values, fmt.Sprintf("($%d, 'orders', $%d, 'placed', $%d)", 3*n+1, 3*n+2, 3*n+3))
		args = append(args, eventID(i), eventKey(i), payload)
	}
	_, err := tx.ExecContext(b.ctx, "INSERT INTO "+b.name+" (id, aggregatetype, aggregateid, type, payload) VALUES "+strings.Join(values, ", "), args...)
	return err
}

func (s *debezium) committed(*bench) {}

// process is the running program. It says when it is ready, when it has sent all, and what it took, a line each.
type process struct {
	command *exec.Cmd
	in      io.Closer
	out     *bufio.Scanner
	errors  bytes.Buffer
}

func (s *debezium) run(b *bench) (*process, error) {
	config, err := pgx.ParseConfig(b.postgres)
	if err != nil {
		return nil, err
	}
	p := &process{}
	target := filepath.Join(debeziumDir(), "target")
	p.command = exec.Command("java", "-Xmx1g", "-cp", filepath.Join(target, "classes")+":"+filepath.Join(target, "libs", "*"), "OutboxRelay",
		config.Host, fmt.Sprint(config.Port), config.User, config.Password, config.Database, b.name, b.broker, fmt.Sprint(b.rows))
	p.command.Stderr = &p.errors
	in, err := p.command.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.in, p.out = in, bufio.NewScanner(out)
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	return p, nil
}

// wait reads the program's next line, which begins with the word, and returns the rest.
func (p *process) wait(word string) (string, error) {
	for p.out.Scan() {
		if rest, ok := strings.CutPrefix(p.out.Text(), word); ok {
			return rest, nil
		}
	}
	text := p.errors.String()
	return "", fmt.Errorf("debezium has ended before it said %q: %s", word, text[max(0, len(text)-2000):])
}

// stop closes the program's input, at which it ends.
func (p *process) stop() error {
	_ = p.in.Close()
	kill := time.AfterFunc(20*time.Second, func() { _ = p.command.Process.Kill() })
	defer kill.Stop()
	return p.command.Wait()
}

func (s *debezium) drain(b *bench) error {
	p, err := s.run(b)
	if err != nil {
		return err
	}
	defer func() { _ = p.stop() }()
	if _, err := p.wait("begun"); err != nil {
		return err
	}
	b.meter.start()
	text, err := p.wait("done ")
	if err != nil {
		return err
	}
	b.meter.stop()
	var took struct{ WallMillis, CPUMillis int64 }
	if err := json.Unmarshal([]byte(text), &took); err != nil {
		return err
	}
	b.meter.own = time.Duration(took.CPUMillis) * time.Millisecond
	b.meter.ended = b.meter.began.Add(time.Duration(took.WallMillis) * time.Millisecond)
	return nil
}

func (s *debezium) serve(b *bench) (func() error, error) {
	p, err := s.run(b)
	if err != nil {
		return nil, err
	}
	if _, err := p.wait("ready"); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return p.stop, nil
}

func (s *debezium) drop(b *bench) error {
	// The server lets go of the slot a little after its reader is gone.
	deadline := time.Now().Add(20 * time.Second)
	for {
		_, err := b.db.ExecContext(b.ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", b.name)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(200 * time.Millisecond)
	}
	_, err := b.db.ExecContext(b.ctx, "DROP PUBLICATION IF EXISTS "+b.name)
	return err
}

func debeziumDir() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "debezium")
}

// buildDebezium compiles the program, once.
func buildDebezium() error {
	for _, tool := range []string{"java", "mvn"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w: there is no %s", errSkipped, tool)
		}
	}
	dir := debeziumDir()
	if _, err := os.Stat(filepath.Join(dir, "target", "libs")); err == nil {
		if _, err := os.Stat(filepath.Join(dir, "target", "classes", "OutboxRelay.class")); err == nil {
			return nil
		}
	}
	command := exec.Command("mvn", "-q", "-B", "-f", dir, "package")
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: mvn package: %w: %.500s", errSkipped, err, out)
	}
	return nil
}
