package microstore

import "errors"

var (
	// ErrClosed is returned by every call on a store, or on a part of it, after Close.
	ErrClosed = errors.New("microstore: store is closed")

	// ErrFull is returned by Commit when the file system of the store has less than Config.MinFreeBytes
	// left. Nothing has been written and the batches are still valid: make room and commit again, or roll
	// back.
	ErrFull = errors.New("microstore: disk is full")

	// ErrFailed is returned by Commit, and by everything that commits, after a write went wrong in a way
	// that leaves open what reached the disk. It wraps the cause and stays: close the store and open it
	// again, which finds the last complete commit.
	ErrFailed = errors.New("microstore: store has failed")

	// ErrTooBig is returned by Commit when the batches together exceed MaxBatchBytes. Nothing has been
	// written and the batches are still valid: roll back to a mark and commit less at a time.
	ErrTooBig = errors.New("microstore: commit is too big")

	// ErrExpired is returned by History.Append when the entry is older than what the history keeps: before
	// the floor, or before the oldest of the entries that MaxCount or MaxBytes leave room for.
	ErrExpired = errors.New("microstore: entry is older than the history keeps")

	// ErrKeyTooLong is returned when a key, together with its match value and id, or a name exceeds what a
	// database key holds.
	ErrKeyTooLong = errors.New("microstore: key is too long")

	// ErrLocked is returned by Open when another store, of this process or another, has the directory open.
	ErrLocked = errors.New("microstore: directory is in use")

	// ErrUnwritable is returned by Open when the directory cannot be created or written.
	ErrUnwritable = errors.New("microstore: directory is not writable")

	// ErrFormat is returned by Open when the store was written by a newer version of this package, or by a
	// program that is not this package.
	ErrFormat = errors.New("microstore: format is not known")

	// ErrDamaged is returned by Open, Verify and reads when files of the store are missing or do not match
	// their checksums.
	ErrDamaged = errors.New("microstore: store is damaged")

	// ErrTrimmed is returned by Log.Read when the offset lies before Start: its records are gone. The error
	// is a *TrimmedError, which has the offset to go on from.
	ErrTrimmed = errors.New("microstore: offset is before the start of the log")
)

// errMalformed is the cause of an ErrDamaged about a key that this package cannot have written.
var errMalformed = errors.New("malformed key")

// errOtherConfig is returned by Task.History when the history is already open with another configuration.
var errOtherConfig = errors.New("microstore: history is open with another configuration")
