package flights

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millrace/millrace/internal/testenv"
	"github.com/millrace/millrace/internal/testenv/services"
)

// standIn is the address of a Kafka in this process.
func standIn(t testing.TB) string {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	check(t, err)
	t.Cleanup(cluster.Close)
	testenv.Report("examples/flights", testenv.Kafka, "kfake, in the process")
	return "kafka://" + strings.Join(cluster.ListenAddrs(), ",") + "?replicas=1"
}

// The whole month over every transport of ours prints what it prints over files, and writes the same lines; and again.
func TestKnownAnswersOverTransports(t *testing.T) {
	want := undisturbedLines(t)
	files, _ := undisturbed()
	for name, address := range map[string]func(*testing.T) string{
		"memory":   func(*testing.T) string { return "memory:" },
		"embedded": func(*testing.T) string { return "embedded:" },
		"file":     func(t *testing.T) string { return "file:" + t.TempDir() },
		"sqlite":   func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "topics.db") },
		"kfake":    func(t *testing.T) string { return standIn(t) },
		"kafka":    func(t *testing.T) string { return "kafka://" + services.Kafka(t) + "?replicas=1" },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			out := filepath.Join(dir, "out.jsonl")
			args := []string{"--state", filepath.Join(dir, "state"), "--out", out, "--transport", address(t), "--prefix", ownPrefix()}
			o := launch(args...)
			if o.code != 0 || o.stdout != files.stdout {
				t.Fatalf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
			}
			sameResult(t, out, want)
			if name == "memory" {
				return
			}
			if o = launch(args...); o.stdout != files.stdout || !strings.Contains(o.stderr, "has finished already") {
				t.Errorf("again: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
			}
		})
	}
}

// A few days over Watermill's Pub/Subs, which take a message at a time, print what they print over files.
func TestSameOverPubSubs(t *testing.T) {
	dir := t.TempDir()
	inputs := someDays(t, dir)
	want := launch(append(inputs, "--state", filepath.Join(dir, "files"))...)
	if want.code != 0 || !strings.Contains(want.stdout, "PLANE") || !strings.Contains(want.stdout, "1 row could not be processed") {
		t.Fatalf("over files: exit code %d\n%s%s", want.code, want.stdout, want.stderr)
	}
	for name, address := range map[string]func(testing.TB) string{
		"postgres": services.Postgres,
		"mariadb":  services.MariaDBAddress,
		"mysql":    services.MySQLAddress,
		"nats":     services.NATS,
		"redis":    services.Redis,
		"rabbitmq": services.RabbitMQ,
	} {
		t.Run(name, func(t *testing.T) {
			o := launch(append(inputs, "--state", filepath.Join(dir, name), "--transport", address(t), "--prefix", ownPrefix())...)
			if o.code != 0 || o.stdout != want.stdout {
				t.Errorf("exit code %d\n%s%s\nover files\n%s", o.code, o.stdout, o.stderr, want.stdout)
			}
		})
	}
}

// ownPrefix makes topics that no other run has.
func ownPrefix() string { return fmt.Sprintf("f%d-", time.Now().UnixNano()) }

// someDays are arguments for the beginning of the month, with a row that cannot be read.
func someDays(t testing.TB, dir string) []string {
	header, flights := rowsOf(t, "flights")
	columns, all := rowsOf(t, "weather")
	var weather []string
	for _, row := range all {
		if strings.Contains(row, ",2013,1,1,") || strings.Contains(row, ",2013,1,2,") {
			weather = append(weather, row)
		}
	}
	flights = append(flights[:1200:1200], "not a row")
	return []string{"--flights", write(t, dir, "some", header, flights), "--weather", write(t, dir, "some-weather", columns, weather)}
}

// The process is killed at random moments while it sends, processes and reads back, and started again.
func TestKilledOverTransports(t *testing.T) {
	path, dir := program(t), t.TempDir()
	inputs := append(someDays(t, dir), "--batch", "50")
	began := time.Now()
	want := launchProcess(t, path, append(inputs, "--state", filepath.Join(dir, "files"), "--out", filepath.Join(dir, "files.jsonl"))...)
	summary := want.mustEnd(t)
	took := time.Since(began)
	lines := linesOf(t, filepath.Join(dir, "files.jsonl"))
	for name, address := range map[string]string{
		"embedded": "embedded:",
		"file":     "file:" + filepath.Join(dir, "topics"),
		"sqlite":   "sqlite:" + filepath.Join(dir, "topics.db"),
		"kafka":    standIn(t) + "&instance_id=one&session_timeout=6s", // a process that comes back gets its partitions back
	} {
		t.Run(name, func(t *testing.T) {
			const kills, runs = 4, 6
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, 0))
			out := filepath.Join(dir, name+".jsonl")
			wait := took
			for killed, run := 0, 0; ; {
				own := fmt.Sprintf("run%d-", run)
				p := launchProcess(t, path, append(inputs, "--state", filepath.Join(dir, name+own), "--out", out,
					"--transport", address, "--prefix", own)...)
				if killed < kills && p.killedBefore(t, time.Duration(random.Int64N(int64(wait)))) {
					killed++
					continue
				}
				if s := p.mustEnd(t); s != summary || p.stdout.String() != want.stdout.String() {
					t.Errorf("after %d kills: %+v, over files %+v\n%s\n%s", killed, s, summary, p.stdout.String(), p.stderr.String())
				}
				sameResult(t, out, lines)
				wait = max(wait/2, 10*time.Millisecond) // it was too quick to be killed
				if run++; killed == kills || run == runs || t.Failed() {
					t.Logf("killed %d times in %d runs", killed, run)
					return
				}
			}
		})
	}
}

// killedBefore kills the process after a while, and tells whether it had not ended by itself.
func (p *process) killedBefore(t *testing.T, wait time.Duration) bool {
	t.Helper()
	moment := time.NewTimer(wait)
	defer moment.Stop()
	select {
	case <-moment.C:
		_ = p.Process.Kill()
	case err := <-p.ended:
		p.ended <- err
		return false
	}
	err := <-p.ended
	if p.ProcessState.ExitCode() >= 0 {
		p.ended <- err
		return false
	}
	return true
}
