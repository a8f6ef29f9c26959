//go:build !linux

package microstore

// boundMapped does nothing: what of mapped files is a process's memory is the system's business here.
func (s *Store) boundMapped(int64) {}
