package sqldb

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrNoTable is returned when a table of ours is not in the database.
	ErrNoTable = errors.New("there is no such table")
	// ErrVersion is returned when a table is of another version than this release works with.
	ErrVersion = errors.New("the table is of another version")
	// ErrDenied is returned when the database user may not do what is needed, or the database is read-only.
	ErrDenied = errors.New("the database does not permit it")
	// errReadOnly is an ErrDenied that passes: a primary that has become a replica, or is about to be one again.
	errReadOnly = fmt.Errorf("%w: it is read-only", ErrDenied)
	// ErrTxDone is returned when the transaction has been committed or rolled back already.
	ErrTxDone = errors.New("the transaction is over")
)

// Explain wraps an error of a database in the sentinel that says what it means, if there is one. create names the call
// that makes the table.
func Explain(err error, table, create string) error {
	switch kind := kindOf(err); {
	case kind == nil:
		return err
	case errors.Is(kind, ErrNoTable):
		return fmt.Errorf("%w: %s: make it with %s: %w", ErrNoTable, table, create, err)
	case errors.Is(kind, ErrVersion):
		return fmt.Errorf("%w: %s lacks a column: bring it up to date with %s: %w", ErrVersion, table, create, err)
	case errors.Is(kind, ErrDenied):
		return fmt.Errorf("%w: %s: %w", kind, table, err)
	default:
		return fmt.Errorf("%w: write before the commit: %w", ErrTxDone, err)
	}
}

// IsPermanent tells errors that trying again does not mend, until somebody has done something about them. A server that is
// read-only may be a primary that has been replaced; it or its successor takes writes again.
func IsPermanent(err error) bool {
	return errors.Is(err, ErrNoTable) || errors.Is(err, ErrVersion) || errors.Is(err, ErrDenied) && !errors.Is(err, errReadOnly)
}

// IsData tells errors of the values in a statement, which the same statement with others does not have: one too long for its
// column or an index of it, or with text that the database's encoding lacks.
func IsData(err error) bool {
	if err == nil {
		return false
	}
	if state := State(err); state != "" {
		return strings.HasPrefix(state, "22") || strings.HasPrefix(state, "54") // data_exception, program_limit_exceeded
	}
	text := err.Error()
	return strings.Contains(text, "Error 1406") || strings.Contains(text, "Error 1366") // too long, incorrect string value
}

// State returns the SQLSTATE of an error of PostgreSQL's server; "" of any other.
func State(err error) string {
	var coded interface{ SQLState() string }
	if errors.As(err, &coded) {
		return coded.SQLState()
	}
	return ""
}

// kindOf returns the sentinel of an error, or nil. PostgreSQL's drivers have a method for the code; those of the others
// have not, and their texts are part of the databases' protocols or sources and do not change.
func kindOf(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, sql.ErrTxDone) {
		return ErrTxDone
	}
	if state := State(err); state != "" {
		return states[state]
	}
	text := err.Error()
	for _, known := range texts {
		if strings.Contains(text, known.part) {
			return known.kind
		}
	}
	return nil
}

// states are SQLSTATE codes.
var states = map[string]error{
	"42P01": ErrNoTable,  // undefined_table
	"3F000": ErrNoTable,  // invalid_schema_name
	"42703": ErrVersion,  // undefined_column
	"42501": ErrDenied,   // insufficient_privilege
	"25006": errReadOnly, // read_only_sql_transaction
}

var texts = []struct {
	part string
	kind error
}{
	{"no such table", ErrNoTable},
	{"Error 1146", ErrNoTable},
	{"has no column named", ErrVersion},
	{"no such column", ErrVersion},
	{"Error 1054", ErrVersion},
	{"attempt to write a readonly database", ErrDenied},
	{"Error 1142", ErrDenied},   // command denied to user
	{"Error 1044", ErrDenied},   // access denied to database
	{"Error 1290", errReadOnly}, // --read-only
	{"Error 1792", errReadOnly}, // read-only transaction
	{"Error 1836", errReadOnly}, // --innodb-read-only, and a reader of Aurora
	{"tx is closed", ErrTxDone}, // pgx.ErrTxClosed
}
