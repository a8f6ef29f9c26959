package processors

import (
	"time"

	"github.com/millrace/millrace/framework"
)

// derive is framework.Derive with the key among what the id follows from. The same events may be in several keys,
// by ReKeyEach, and what they make there are different events. The key goes into the index, as FNV-1a, which is the
// same in every process.
func derive[T any](s *framework.Scope, st *framework.Step, index int, t time.Time, data T,
	causes ...*framework.Header) *framework.Event[T] {
	hash := uint64(14695981039346656037)
	for _, b := range []byte(s.Key()) {
		hash = (hash ^ uint64(b)) * 1099511628211
	}
	return framework.Derive(s, st, index^int(hash), t, data, causes...)
}
