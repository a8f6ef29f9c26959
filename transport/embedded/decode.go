package embedded

import (
	"errors"
	"fmt"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
)

// ErrDamaged is wrapped by what a reader returns for a chunk that cannot be decoded.
var ErrDamaged = errors.New("chunk is damaged")

// decode appends the records of a chunk from an offset on to dst. They do not refer to the chunk's data.
func decode(dst []framework.Record, chunk *microstore.Chunk, from int64) ([]framework.Record, error) {
	all, end, err := framework.ReadRecords(dst, chunk.Data, chunk.Base, from)
	if err == nil && end != chunk.End() {
		err = fmt.Errorf("%d records, expected %d", end-chunk.Base, chunk.Count)
	}
	if err != nil {
		return dst, fmt.Errorf("%w: %d to %d: %w", ErrDamaged, chunk.Base, chunk.End()-1, err)
	}
	return all, nil
}
