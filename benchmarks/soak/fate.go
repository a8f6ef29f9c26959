package main

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/millrace/millrace/internal/failpoint"
)

// fate is what befalls a process by itself: at the Nth hit of a failpoint it dies as by kill -9, or stands still as by SIGSTOP.
// The driver cannot strike as exactly from outside: what is between two steps of a commit takes microseconds.
type fate struct {
	Point string // "": nothing befalls it
	Nth   int64
	// After the hit goes so much time by.
	After time.Duration
	// Stop is how long it stands still; 0: it dies.
	Stop time.Duration

	// When it has died: how long it is down, and whether its directory is gone then.
	Down time.Duration
	Lose bool
}

// Points around everything that is made durable, sent or acknowledged. Those of commits stand here more often.
var points = []string{
	"commit.before", "commit.after", "commit.after", "commit.after", "ack.before", "ack.after", "task.batch",
	"release.before", "release.after", "release.after", "release.forgotten",
	"store.commit.before", "store.commit.after", "store.open", "store.open", "store.seal",
	"changelog.claim", "changelog.copied",
}

// rarePoints are hit a few times in a process's life.
var rarePoints = map[string]int{"store.open": 1, "store.seal": 1, "changelog.claim": 8, "changelog.copied": 8}

const session = 6 * time.Second // of members of the group

// drawFate draws what befalls the nth start of a process; it is the same for the same seed.
func drawFate(s *settings, member string, start int) fate {
	r := rand.New(rand.NewPCG(s.Seed, hash(fmt.Sprint(member, "/", start))))
	if s.Deaths == 0 || r.IntN(4) == 0 {
		return fate{}
	}
	f := fate{Point: pick(r, points...)}
	most := s.Hits
	if n := rarePoints[f.Point]; n > 0 {
		most = n
	}
	f.Nth = int64(math.Exp(r.Float64() * math.Log(float64(most+1)))) // most often soon
	f.After = pick(r, 0, 0, time.Duration(r.IntN(30_000))*time.Microsecond, time.Duration(r.IntN(1000))*time.Millisecond)
	if f.Point == "store.open" { // what follows is Badger's, which has no failpoints
		f.After = time.Duration(r.IntN(60_000)) * time.Microsecond
	}
	f.Down = pick(r, 0, 0, 0, time.Duration(r.IntN(1500))*time.Millisecond, session+2*time.Second)
	if s.Kind == embeddedKind {
		return f // it has no other copy, and no session
	}
	if r.IntN(4) == 0 {
		f.Stop = pick(r, time.Duration(r.IntN(2000))*time.Millisecond, session+time.Duration(500+r.IntN(4000))*time.Millisecond)
	}
	f.Lose = r.IntN(8) == 0
	return f
}

func hash(text string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text)) // it never fails
	return h.Sum64()
}

// What a process writes to standard output before its fate befalls it, so that the driver knows that it was that.
const (
	dies   = "fate: dies"
	stands = "fate: stands still"
)

// arm makes the fate befall this process.
func (f fate) arm() {
	if f.Point == "" {
		return
	}
	var hits atomic.Int64
	failpoint.Arm(f.Point, func() error {
		if hits.Add(1) != f.Nth {
			return nil
		}
		if f.After > 0 {
			time.AfterFunc(f.After, f.befall)
		} else {
			f.befall()
		}
		return nil
	})
}

func (f fate) befall() {
	what, signal := dies, syscall.SIGKILL
	if f.Stop > 0 {
		what, signal = stands, stopSignal
	}
	fmt.Printf("%s at hit %d of %s, %s later\n", what, f.Nth, f.Point, f.After)
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Signal(signal)
	}
	if err != nil {
		panic(err)
	}
	for f.Stop == 0 { // the signal is on its way; nothing after the point may run
		time.Sleep(time.Hour)
	}
}
