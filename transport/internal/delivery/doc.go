// Package delivery is what the batch subscribers of our transports have in common: the loop that reads a
// partition, hands its batches to the engine's router, bounds how many are out, and passes
// acknowledgements back. A transport adds a Reader.
package delivery
