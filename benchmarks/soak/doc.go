// Command soak runs pipelines under faults for as long as it is let, and counts what comes out: real processes, on a real Kafka
// or on topics in their own store, that are killed, stopped, put back and cut off at moments that nobody chose.
//
//	make soak                                      # ten minutes, another seed each time
//	make soak FOR=8h SEED=1
//	go run ./benchmarks/soak -kinds embedded       # needs no Kafka
//	go run ./benchmarks/soak -brokers host:9092    # one of your own, which is not stopped
//	go run ./benchmarks/soak -seed 17 -schedules 1 # once more
//
// Each seed is a schedule: settings of a pipeline, an input of some thousand orders and payments, a plan of what is done from
// outside, and what befalls each process at a failpoint. The same seed draws the same again; when the processes come to where
// they are struck is the machine's, so that a schedule that failed may not fail each time. Of one that fails all is kept:
// settings, plan, input, events, logs, stores, what was expected and what came; see evidence.
//
// # What it proves
//
// The pipeline has three stages and every step that keeps state or has timers: filter, enrich, distinct, fold, left join, self-join,
// split, windows, expiry, two re-keys. A model of plain maps says what has to come. So long as all of this holds, a schedule is ok:
//
//   - nothing is missing and nothing is there that was not fed: sets of all outputs, with the payment that an order has to have;
//   - order per key, in each stage: outputs are numbered by key, and come in the order of the input;
//   - what comes twice has the same id and the same bytes; on topics in the store nothing does;
//   - dead letters are of events that were made to fail, late ones of events that were late; resubmitted, they come, and where
//     keys are parked nothing shows that they failed;
//   - a process ends when it is asked to, and only then; and all comes to an end.
//
// # What it injects
//
// From outside: kill -9 of one, of all, again and again while they start, and while they end; SIGTERM; SIGSTOP for less than a session and for
// more; directories that are lost, old copies that are put back, two that are swapped; processes that join; the broker killed, stopped and
// frozen (one of its own, in a container); records deleted once they are processed; steps that fail and are mended, and dead letters that are resubmitted
// meanwhile.
// From inside: death, or standing still, at the nth hit of a failpoint (internal/failpoint) around commits, sends, acknowledgements, claims and
// copies of changelogs, and as a store opens and closes, at once or a moment later.
//
// # What it cannot find
//
// Loss of power, and a broker that loses what it acknowledged: processes die, the system and the disk do not. More than one broker.
// Damage and full disks. Anything over many hours of event time, and memory that grows (go run ./benchmarks -soak). Errors that
// its model takes for allowed, since the guarantees do: where keys are not parked, what becomes of an order that was overtaken; with Hold,
// what was not held. Speed.
//
// It needs Unix. TestEmbedded runs a short schedule with each run of the tests.
package main
