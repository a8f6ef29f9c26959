package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// Schema is a set of tables with a version.
//
// The version is a row of the table <Name>_version. Each of Steps brings the tables from one version to the next; a
// step that was released is never changed, the next one is added.
type Schema struct {
	Dialect Dialect
	// Name is the table's name, and the beginning of the names of those that belong to it.
	Name string
	// Create names the call that makes the tables, for errors.
	Create string
	// Steps are the statements from each version to the next. In them NAME stands for Name, and the words that begin
	// with a colon for types; see dialects.
	Steps [][]string
}

// Version is the one that this release works with.
func (s Schema) Version() int { return len(s.Steps) }

// SQL returns the statements that bring the tables from a version to this release's, for a migration tool. From 0: they
// are not there yet, as for any number below.
func (s Schema) SQL(from int) string {
	var b strings.Builder
	for _, statement := range s.statements(from) {
		b.WriteString(statement)
		b.WriteString(";\n\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (s Schema) statements(from int) []string {
	var all []string
	if from = max(from, 0); from == 0 {
		all = append(all, s.expand("CREATE TABLE IF NOT EXISTS NAME_version (version integer NOT NULL PRIMARY KEY):options"))
	}
	for v := from; v < len(s.Steps); v++ {
		for _, statement := range s.Steps[v] {
			all = append(all, s.expand(statement))
		}
		all = append(all, s.expand(fmt.Sprintf("INSERT INTO NAME_version (version) VALUES (%d)", v+1)))
	}
	return all
}

func (s Schema) expand(statement string) string {
	return dialects[s.Dialect].ddl.Replace(strings.ReplaceAll(statement, "NAME", s.Name))
}

// Apply makes the tables, or brings them to this release's version. Several processes may do it at the same time.
//
// On PostgreSQL and SQLite it is one transaction. MySQL commits each statement by itself: what was broken off goes on
// the next time, since each statement leaves what is there alone.
func (s Schema) Apply(ctx context.Context, db *sql.DB) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	unlock, err := s.lock(ctx, conn)
	if err != nil {
		return s.explain(err)
	}
	err = s.apply(ctx, conn)
	if unlockErr := unlock(err == nil); err == nil {
		err = unlockErr
	}
	return s.explain(err)
}

// lock keeps other processes from changing the tables until unlock is called, and begins a transaction where there are
// such for schemas.
func (s Schema) lock(ctx context.Context, conn *sql.Conn) (unlock func(ok bool) error, err error) {
	finish := func(statement string) error {
		_, err := conn.ExecContext(context.WithoutCancel(ctx), statement)
		return err
	}
	end := func(ok bool) error {
		if ok {
			return finish("COMMIT")
		}
		return finish("ROLLBACK")
	}
	begin := func(statements ...string) (func(bool) error, error) {
		for _, statement := range statements {
			if _, err := conn.ExecContext(ctx, statement); err != nil {
				_ = end(false) // so that the pool gets back no connection with a transaction
				return nil, err
			}
		}
		return end, nil
	}
	switch s.Dialect {
	case Postgres:
		return begin("BEGIN", fmt.Sprintf("SELECT pg_advisory_xact_lock(hashtext('millrace schema %s'))", s.Name))
	case SQLite:
		return begin("BEGIN IMMEDIATE")
	}
	name := s.lockName()
	var got sql.NullInt64
	if err := conn.QueryRowContext(ctx, "SELECT GET_LOCK("+name+", 60)").Scan(&got); err != nil {
		return nil, err
	}
	if got.Int64 != 1 {
		return nil, errors.New("another process has been changing the tables for a minute")
	}
	return func(bool) error { return finish("DO RELEASE_LOCK(" + name + ")") }, nil
}

// lockName is the name of the lock on MySQL, which takes up to 64 bytes; MariaDB takes more. Tables of which the names begin
// alike then have one lock.
func (s Schema) lockName() string {
	name := "millrace schema " + s.Name
	return "'" + name[:min(len(name), 64)] + "'"
}

func (s Schema) apply(ctx context.Context, conn *sql.Conn) error {
	if _, err := conn.ExecContext(ctx, s.statements(0)[0]); err != nil {
		return err
	}
	version, err := s.read(ctx, conn)
	if err != nil {
		return err
	}
	if version > s.Version() {
		return s.versionError(version)
	}
	statements := s.statements(version)
	if version == 0 {
		statements = statements[1:] // the table of the version is there by now
	}
	for _, statement := range statements {
		if _, err := conn.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("%w, in: %s", err, statement)
		}
	}
	return nil
}

// Check tells whether the tables are there and of this release's version.
func (s Schema) Check(ctx context.Context, db *sql.DB) error {
	version, err := s.read(ctx, db)
	switch {
	case err != nil:
		return s.explain(err)
	case version == 0:
		return fmt.Errorf("%w: %s: make it with %s", ErrNoTable, s.Name, s.Create)
	case version != s.Version():
		return s.versionError(version)
	}
	return nil
}

func (s Schema) read(ctx context.Context, db interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}) (version int, err error) {
	err = db.QueryRowContext(ctx, s.expand("SELECT COALESCE(MAX(version), 0) FROM NAME_version")).Scan(&version)
	return version, err
}

func (s Schema) versionError(version int) error {
	advice := "bring it up to date with " + s.Create
	if version > s.Version() {
		advice = "use a release that is at least as new as the one that changed it"
	}
	return fmt.Errorf("%w: %s is of version %d, this release works with %d: %s", ErrVersion, s.Name, version, s.Version(), advice)
}

func (s Schema) explain(err error) error {
	if err == nil {
		return nil
	}
	return Explain(err, s.Name, s.Create)
}
