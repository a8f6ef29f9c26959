package harness

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// builder makes the programs of systems, each once.
type builder struct {
	config Config
	made   map[string]error
}

// command is how a system is started; an error says why it cannot be.
func (b *builder) command(ctx context.Context, s System) ([]string, error) {
	err, made := b.made[s.Program]
	if !made {
		if s.Java {
			err = b.java(ctx, s.Program)
		} else {
			err = b.golang(ctx, s.Program)
		}
		b.made[s.Program] = err
	}
	if err != nil {
		return nil, err
	}
	command := append([]string{b.binary(s.Program)}, s.Args...)
	if s.Java {
		jars := filepath.Join(b.project(s.Program), "target")
		command = []string{
			"java", "-Xmx1g", "-cp", filepath.Join(jars, "classes") + string(os.PathListSeparator) + filepath.Join(jars, "lib", "*"),
			"bench.Streams", s.Args[0], strconv.Itoa(threads(b.config.Processors)),
		}
		command = append(command, s.Args[1:]...)
	}
	if own, _, ok := processors(b.config.Processors); ok {
		command = append([]string{"taskset", "-c", own}, command...)
	}
	return command, nil
}

func (b *builder) project(program string) string {
	return filepath.Join(b.config.Module, "systems", program)
}

func (b *builder) binary(program string) string { return filepath.Join(b.config.Dir, "bin", program) }

func (b *builder) golang(ctx context.Context, program string) error {
	binary, err := filepath.Abs(b.binary(program))
	if err != nil {
		return err
	}
	return execute(ctx, b.config.Module, "go", "build", "-o", binary, "./systems/"+program)
}

func (b *builder) java(ctx context.Context, program string) error {
	for _, tool := range []string{"java", "javac", "mvn"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("there is no %s; Kafka Streams needs a JDK from 17 on, and Maven", tool)
		}
	}
	return execute(ctx, b.project(program), "mvn", "-q", "-B", "compile", "dependency:copy-dependencies",
		"-DincludeScope=runtime", "-DoutputDirectory=target/lib")
}

// execute runs a command; what it says is in the error.
func execute(ctx context.Context, dir, name string, args ...string) error {
	var said bytes.Buffer
	command := exec.CommandContext(ctx, name, args...)
	command.Dir, command.Stdout, command.Stderr = dir, &said, &said
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

// threads is how many processors a system has.
func threads(processors int) int {
	if processors < 0 {
		return runtime.NumCPU()
	}
	return processors
}

// processors are lists for taskset: a system's own, the last n, and the others. They cannot be shared out where there is no
// taskset or not one more than n.
func processors(n int) (own, others string, ok bool) {
	count := runtime.NumCPU()
	if _, err := exec.LookPath("taskset"); err != nil || n < 0 || n >= count {
		return "", "", false
	}
	return fmt.Sprintf("%d-%d", count-n, count-1), fmt.Sprintf("0-%d", count-n-1), true
}

// confine keeps a process off the processors of the systems.
func confine(ctx context.Context, n, pid int) error {
	_, others, ok := processors(n)
	if !ok || pid <= 0 {
		return nil
	}
	return execute(ctx, ".", "taskset", "-a", "-c", "-p", others, strconv.Itoa(pid))
}
