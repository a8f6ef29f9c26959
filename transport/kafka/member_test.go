package kafka_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/kafka"
)

// memberVariable makes this binary run a pipeline as a member of its group, until it is interrupted.
const memberVariable = "MILLRACE_KAFKA_MEMBER"

// memberConfig is what a member is told, as JSON.
type memberConfig struct {
	Pipeline    string // of memberPipelines
	Address     string // of the topics
	Prefix, Dir string
	Sink        string // address of the cluster that the sink is on; empty: Address
	OutboxBytes int64
	BatchEvents int
}

var memberPipelines = map[string]func(prefix string) *framework.Pipeline{
	"accounts": accounts, "logged": logged, "slow": slow, "copy": copying,
}

// memberRun is the child: it prints what its tasks do and how many events were committed, a line each.
func memberRun(arguments string) error {
	var c memberConfig
	if err := json.Unmarshal([]byte(arguments), &c); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	transport, err := openAddress(ctx, c.Address)
	if err != nil {
		return err
	}
	defer transport.Close()
	store, err := microstore.Open(microstore.Config{Dir: c.Dir})
	if err != nil {
		return err
	}
	defer store.Close()
	config := framework.Config{
		Store: store, Transport: transport, Internal: transport, IdleAfter: -1, OutboxBytes: c.OutboxBytes, BatchEvents: c.BatchEvents,
		Hooks: []framework.Hook{teller{}}, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	if c.Sink != "" {
		sink, err := openAddress(ctx, c.Sink)
		if err != nil {
			return err
		}
		defer sink.Close()
		config.Routes = map[string]framework.Transport{c.Prefix + sinkTopic: sink}
	}
	runner, err := framework.New(config, memberPipelines[c.Pipeline](c.Prefix))
	if err != nil {
		return err
	}
	return runner.Run(ctx)
}

func openAddress(ctx context.Context, address string) (*kafka.Transport, error) {
	config, err := kafka.Parse(address)
	if err != nil {
		return nil, err
	}
	config.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	return kafka.New(ctx, config)
}

// sinkTopic is the topic that the pipelines of members write, behind the prefix.
const sinkTopic = "out"

// teller prints.
type teller struct{}

func (teller) OnTask(t framework.TaskInfo) {
	fmt.Printf("task %s %s %d\n", t.Task, strings.ReplaceAll(string(t.State), " ", "-"), t.Behind)
}

func (teller) OnCommit(c framework.CommitInfo) {
	if c.Topic != "" {
		fmt.Printf("commit %s %d\n", c.Task, c.Events)
	}
}

// process is a member from outside.
type process struct {
	t     *testing.T
	name  string
	child *exec.Cmd
	ended chan struct{} // its output is at its end

	mu      sync.Mutex
	told    []framework.TaskInfo
	events  int // in commits
	changed chan struct{}
	errors  bytes.Buffer
}

func startMember(t *testing.T, name string, config memberConfig) *process {
	t.Helper()
	arguments, err := json.Marshal(config)
	must(t, err)
	p := &process{t: t, name: name, child: exec.Command(os.Args[0]), ended: make(chan struct{}), changed: make(chan struct{})}
	p.child.Env = append(os.Environ(), memberVariable+"="+string(arguments),
		"GORACE="+os.Getenv("GORACE")+" atexit_sleep_ms=0") // in place of a second
	p.child.Stderr = &p.errors
	out, err := p.child.StdoutPipe()
	must(t, err)
	must(t, p.child.Start())
	go func() {
		defer close(p.ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.hear(strings.Fields(lines.Text()))
		}
	}()
	t.Cleanup(func() {
		if p.child.ProcessState == nil {
			p.signal(syscall.SIGCONT)
			if t.Failed() {
				p.signal(syscall.SIGQUIT) // to see where it hangs
			} else {
				p.signal(syscall.SIGKILL)
			}
			p.wait()
		}
		if t.Failed() {
			t.Logf("%s: %v\n%s", name, p.child.ProcessState, p.errors.String())
		}
	})
	return p
}

func (p *process) hear(words []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch n, _ := strconv.Atoi(words[len(words)-1]); {
	case len(words) == 4 && words[0] == "task":
		p.told = append(p.told, framework.TaskInfo{Task: words[1], State: framework.TaskState(strings.ReplaceAll(words[2], "-", " ")), Behind: int64(n)})
	case len(words) == 3 && words[0] == "commit":
		p.events += n
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// await waits until something is so.
func (p *process) await(what string, is func() bool) {
	p.t.Helper()
	deadline := time.After(memberPatience)
	for {
		p.mu.Lock()
		ok, changed := is(), p.changed
		p.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-p.ended:
			p.t.Fatalf("%s ended, and not: %s", p.name, what)
		case <-deadline:
			p.mu.Lock()
			defer p.mu.Unlock()
			p.t.Fatalf("%s: not within %s: %s; it told %v", p.name, memberPatience, what, p.told)
		}
	}
}

// tasks are those that it has.
func (p *process) tasks() map[string]bool { // the lock is held
	has := map[string]bool{}
	for _, t := range p.told {
		switch t.State {
		case framework.TaskAssigned:
			has[t.Task] = true
		case framework.TaskRevoked, framework.TaskLost:
			delete(has, t.Task)
		}
	}
	return has
}

// count is how often it told a state since the first n tellings.
func (p *process) count(from int, state framework.TaskState) (n int) { // the lock is held
	for _, t := range p.told[from:] {
		if t.State == state {
			n++
		}
	}
	return n
}

// so far is how much it has told.
func (p *process) soFar() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.told)
}

func (p *process) committed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.events
}

func (p *process) signal(s syscall.Signal) { _ = p.child.Process.Signal(s) }

func (p *process) wait() {
	<-p.ended
	_ = p.child.Wait()
}

// kill ends it as kill -9 does; interrupt in good order.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	p.wait()
}

func (p *process) interrupt() {
	p.t.Helper()
	p.signal(syscall.SIGINT)
	p.wait()
	if code := p.child.ProcessState.ExitCode(); code != 0 {
		p.t.Errorf("%s: exit code %d", p.name, code)
	}
}

// memberPatience is how long is waited for other processes, which may have to wait for sessions to end.
const memberPatience = 3 * time.Minute
