//go:build race

package orders

// mostMemory is what a process of the tests may have in memory; the race detector takes several times as much.
const mostMemory = 3 << 30
