package kafka_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/transport/kafka"
)

func TestDamagedStoreMovesNothing(t *testing.T) {
	t.Parallel()
	damagedStore(t, kafka.Config{Brokers: fake(t).ListenAddrs()}, "")
}

func TestDamagedStoreMovesNothingOnBroker(t *testing.T) {
	t.Parallel()
	damagedStore(t, broker(t), own(t))
}

// A member whose store is cut short, overwritten or not a directory ends at once with an error that names it, and the
// group's positions stay where they were, though there is something to read. With its store whole again it goes on.
func damagedStore(t *testing.T, config kafka.Config, prefix string) {
	config.SessionTimeout = 30 * time.Second
	b := newBank(t, config, prefix)
	dir := filepath.Join(t.TempDir(), "store")
	start := func() *process {
		return startMember(t, "one", memberConfig{Pipeline: "accounts", Prefix: prefix, Dir: dir,
			Address: "kafka://" + strings.Join(config.Brokers, ",") + "?partitions=4"})
	}
	one := start()
	b.feed(50)
	b.await(50)
	one.interrupt()
	b.feed(50)
	before := committedBy(t, config, prefix+"accounts")
	whole := dir + "-whole"
	must(t, os.Rename(dir, whole))
	for name, damage := range map[string]func(){
		"cut short":       func() { eachFile(t, dir, func(d []byte) []byte { return d[:len(d)/2] }) },
		"overwritten":     func() { eachFile(t, dir, func(d []byte) []byte { clear(d[len(d)/3:]); return d }) },
		"not a directory": func() { must(t, os.RemoveAll(dir)); must(t, os.WriteFile(dir, nil, 0o600)) },
	} {
		must(t, os.RemoveAll(dir))
		must(t, os.CopyFS(dir, os.DirFS(whole)))
		damage()
		p := start()
		p.wait()
		if said := p.errors.String(); p.child.ProcessState.ExitCode() != 1 || !strings.Contains(said, "microstore: ") || !strings.Contains(said, dir) {
			t.Errorf("%s: %v: %s", name, p.child.ProcessState, said)
		}
		if after := committedBy(t, config, prefix+"accounts"); after != before {
			t.Errorf("%s: the group's positions were %s and are %s", name, before, after)
		}
	}
	must(t, os.RemoveAll(dir))
	must(t, os.Rename(whole, dir))
	one = start()
	b.await(100)
	one.interrupt()
	b.check()
}

// eachFile changes all files of a directory that hold something.
func eachFile(t *testing.T, dir string, change func([]byte) []byte) {
	t.Helper()
	files, err := os.ReadDir(dir)
	must(t, err)
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		must(t, err)
		if len(data) > 0 {
			must(t, os.WriteFile(filepath.Join(dir, f.Name()), change(data), 0o600))
		}
	}
}

// committedBy are the positions of a group.
func committedBy(t *testing.T, config kafka.Config, group string) string {
	t.Helper()
	offsets, err := adminOf(t, config.Brokers...).FetchOffsets(t.Context(), group)
	must(t, err)
	must(t, offsets.Error())
	var all []string
	for _, o := range offsets.Sorted() {
		all = append(all, fmt.Sprintf("%s/%d@%d", o.Topic, o.Partition, o.At))
	}
	return strings.Join(all, " ")
}
