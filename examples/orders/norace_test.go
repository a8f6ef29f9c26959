//go:build !race

package orders

// mostMemory is what a process of the tests may have in memory.
const mostMemory = 768 << 20
