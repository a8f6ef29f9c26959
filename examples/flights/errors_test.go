package flights

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/embedded"
	"github.com/millrace/millrace/transport/file"
)

// refused runs the program and wants an error with all of these words.
func refused(t *testing.T, code int, args []string, words ...string) {
	t.Helper()
	o := launch(args...)
	if o.code != code || o.stdout != "" {
		t.Errorf("%q: exit code %d, not %d\n%s%s", args, o.code, code, o.stdout, o.stderr)
	}
	for _, word := range words {
		if !strings.Contains(o.stderr, word) {
			t.Errorf("%q: no %q in\n%s", args, word, o.stderr)
		}
	}
}

func TestWrongCommandLines(t *testing.T) {
	t.Parallel()
	cases := []struct{ args, says string }{
		{"--lanes 0", "--lanes is 0; it must be 1 to 64"},
		{"--lanes 65", "--lanes is 65"},
		{"--lanes -1", "--lanes is -1"},
		{"--batch 0", "--batch is 0; it must be at least 1"},
		{"--partitions 0", "--partitions is 0"},
		{"--partitions 5000", "--partitions is 5000"},
		{"--lateness -1h", "--lateness is -1h"},
		{"--weather-lateness -1h", "--weather-lateness is -1h"},
		{"--summary xml", "--summary is \"xml\"; it can be text or json"},
		{"--batch many", "invalid value"},
		{"--nope", "-h lists the flags"},
		{"flights.csv", "unexpected argument"},
		{"--state=", "--state is empty"},
		{"--wait -1s", "--wait is -1s; it cannot be negative"},
		{"--wait 1s", "--wait is for kafka: addresses, and --transport is not given"},
		{"--wait 1s --transport memory:", "--wait is for kafka: addresses, and this one is of memory: topics"},
	}
	for _, c := range cases {
		refused(t, exitUsage, strings.Fields(c.args), c.says)
	}
	refused(t, exitUsage, []string{"--lanes", "0", "--batch", "0"}, "--lanes", "--batch")
	for _, flag := range []string{"-h", "--help"} {
		if o := launch(flag); o.code != 0 || !strings.Contains(o.stdout, StateVariable) || o.stderr != "" {
			t.Errorf("%s: %+v", flag, o)
		}
	}
}

// What is wrong with the inputs, the output or the place of the state is said before anything is made.
func TestNothingIsMadeBeforeAnError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	place := func(name, content string) string {
		check(t, os.WriteFile(path(name), []byte(content), 0o644))
		return path(name)
	}
	packed, err := month.ReadFile("data/flights-2013-01.csv.gz")
	check(t, err)
	header, rows := rowsOf(t, "weather")
	plain := place("plain", "")
	planes, err := month.ReadFile("data/planes.csv.gz")
	check(t, err)
	cases := []struct {
		name string
		args []string
		says string
	}{
		{"missing flights", []string{"--flights", path("none.csv")}, "no such file"},
		{"missing weather", []string{"--weather", path("none.csv")}, "no such file"},
		{"missing planes", []string{"--planes", path("none.csv")}, "no such file"},
		{"missing airlines", []string{"--airlines", path("none.csv")}, "no such file"},
		{"a directory", []string{"--flights", dir}, "is a directory"},
		{"other columns", []string{"--flights", write(t, dir, "other", header, rows[:5])}, "no column sched_dep_time"},
		{"not CSV", []string{"--planes", place("bytes.csv", "\x01\x02 \"\"x\n")}, "--planes"},
		{"empty", []string{"--flights", place("empty.csv", "")}, "the file is empty"},
		{"not packed", []string{"--flights", place("text.csv.gz", "hello\n")}, "no column"},
		{"cut", []string{"--flights", place("cut.csv.gz", string(packed[:5000]))}, "cut or damaged"},
		{"cut at once", []string{"--airlines", place("cut2.csv.gz", string(packed[:5]))}, "--airlines"},
		{"damaged", []string{"--flights", place("bad.csv.gz", string(packed[:5000])+"!"+string(packed[5001:]))}, "--flights"},
		{"damaged planes", []string{"--planes", place("bad2.csv.gz", string(planes[:len(planes)-2])+"!!")}, "cut or damaged"},
		{"no folder for the output", []string{"--out", path("none/out.jsonl")}, "--out"},
		{"output to a folder", []string{"--out", dir}, "not a regular file"},
		{"output to standard output", []string{"--out", "-"}, "name a file"},
		{"output packed", []string{"--out", path("out.jsonl.gz")}, "without .gz"},
		{"output into the store", []string{"--out", path("state/store/MANIFEST")}, "it lies in the state directory"},
		{"output over an input", []string{"--planes", place("p.csv", string(planes)), "--out", path("./p.csv")}, "it is also --planes"},
		{"state on a file", []string{"--state", plain}, "not a directory"},
		{"state below a file", []string{"--state", filepath.Join(plain, "state")}, "not a directory"},
		{"all at once", []string{"--flights", path("a.csv"), "--weather", path("b.csv"), "--out", "-"}, "b.csv"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"--state", path("state")}, c.args...)
			refused(t, exitFailed, args, c.says)
			if _, err := os.Stat(path("state")); err == nil {
				t.Errorf("it made the state directory")
				check(t, os.RemoveAll(path("state")))
			}
		})
	}
	if content, err := os.ReadFile(path("p.csv")); err != nil || string(content) != string(planes) {
		t.Errorf("the input was changed: %v", err)
	}
}

func TestOtherStates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	header, rows := rowsOf(t, "flights")
	few := write(t, dir, "few", header, rows[:100])
	fewer := write(t, dir, "fewer", header, rows[:99])
	state := filepath.Join(dir, "state")
	ours := func(more ...string) []string { return append([]string{"--state", state, "--flights", few}, more...) }
	mustRun(t, ours()...)

	t.Run("changed inputs and options", func(t *testing.T) {
		refused(t, exitFailed, []string{"--state", state, "--flights", fewer}, "--flights has other contents", "--fresh")
		refused(t, exitFailed, ours("--planes", few), "--planes", "no column model")
		refused(t, exitFailed, ours("--partitions", "3"), "--partitions was 2 and is 3")
		refused(t, exitFailed, ours("--lateness", "5h", "--weather-lateness", "6h"), "--lateness was", "--weather-lateness was")
	})
	t.Run("in use", func(t *testing.T) {
		store, err := microstore.Open(microstore.Config{Dir: filepath.Join(state, storeName)})
		check(t, err)
		refused(t, exitFailed, ours(), "in use", state)
		refused(t, exitFailed, ours("--fresh"), "in use", state)
		check(t, store.Close())
	})
	t.Run("fresh with a mistake", func(t *testing.T) {
		refused(t, exitFailed, []string{"--state", state, "--flights", filepath.Join(dir, "none.csv"), "--fresh"}, "no such file")
	})
	if o, _ := mustRun(t, ours()...); !strings.Contains(o.stderr, "has finished already") {
		t.Errorf("the state is gone:\n%s", o.stderr)
	}
	t.Run("a damaged store", func(t *testing.T) {
		store := filepath.Join(state, storeName)
		check(t, os.WriteFile(filepath.Join(store, "MANIFEST"), []byte("nonsense"), 0o644))
		refused(t, exitFailed, ours(), "damaged", state)
		if o, _ := mustRun(t, ours("--fresh")...); strings.Contains(o.stderr, "already") {
			t.Errorf("not fresh:\n%s", o.stderr)
		}
	})
}

// A broker that does not answer is waited for as long as --wait says.
func TestNoBroker(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	address := listener.Addr().String()
	check(t, listener.Close())
	for _, transport := range []string{"kafka://" + address, "kafka://" + address + "?replicas=1"} {
		refused(t, exitFailed, []string{"--state", filepath.Join(t.TempDir(), "state"), "--transport", transport, "--wait", "300ms"},
			"no broker answers at "+address, "within 300ms")
	}
}

// An address that cannot be used leaves no run behind that would have to be gone on with.
func TestMistypedAddress(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	header, rows := rowsOf(t, "flights")
	args := []string{"--state", filepath.Join(dir, "state"), "--flights", write(t, dir, "few", header, rows[:100])}
	refused(t, exitFailed, append(args, "--transport", "sqlite:"+filepath.Join(dir, "none", "topics.db")), "no such file")
	if o, _ := mustRun(t, append(args, "--transport", "file:"+filepath.Join(dir, "topics"))...); strings.Contains(o.stderr, "going on") {
		t.Errorf("it goes on with what never ran:\n%s", o.stderr)
	}
}

func TestForeignDirectories(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	header, rows := rowsOf(t, "flights")
	few := write(t, dir, "few", header, rows[:100])
	foreign := func(name string) string {
		path := filepath.Join(dir, name)
		check(t, os.Mkdir(path, 0o755))
		return path
	}
	both := func(state string, words ...string) {
		t.Helper()
		for _, fresh := range []string{"--fresh=false", "--fresh"} {
			refused(t, exitFailed, []string{"--state", state, "--flights", few, fresh}, append(words, state)...)
		}
	}

	shop := foreign("shop")
	check(t, os.Mkdir(filepath.Join(shop, storeName), 0o755))
	goods := filepath.Join(shop, storeName, "goods.txt")
	check(t, os.WriteFile(goods, []byte("soap"), 0o644))
	both(shop, "is not the state of this example")
	if _, err := os.Stat(goods); err != nil {
		t.Errorf("--fresh: %v", err)
	}

	newer := foreign("newer")
	check(t, os.WriteFile(filepath.Join(newer, markName), []byte("state of the Millrace example flights, format 2\n"), 0o644))
	both(newer, "format 2", "format 1")

	other := foreign("other")
	runOther(t, other, few)
	both(other, "is not the state of this example")
	check(t, os.WriteFile(filepath.Join(other, markName), []byte(markText), 0o644))
	refused(t, exitFailed, []string{"--state", other, "--flights", few}, "other", "holds other state")
}

// runOther leaves the state of another pipeline where this example has its own.
func runOther(t *testing.T, dir, input string) {
	t.Helper()
	store, err := microstore.Open(microstore.Config{Dir: filepath.Join(dir, storeName)})
	check(t, err)
	defer store.Close()
	topics, err := embedded.New(store, embedded.Config{})
	check(t, err)
	files, err := file.New(file.Config{Inputs: map[string]file.Input{"rows": {Path: input}}})
	check(t, err)
	p := framework.NewPipeline("other")
	framework.To(framework.From(p, "rows", framework.Source[Flight]{Codec: file.CSV[Flight]()}), "copies")
	r, err := framework.New(framework.Config{Store: store, Transport: topics,
		Routes: map[string]framework.Transport{"rows": files}}, p)
	check(t, err)
	check(t, r.Run(context.Background()))
}
