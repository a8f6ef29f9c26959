package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestRebind(t *testing.T) {
	const query = "UPDATE t SET a = ?, b = b + ? WHERE c IN (?, ?)"
	if got := Postgres.Rebind(query); got != "UPDATE t SET a = $1, b = b + $2 WHERE c IN ($3, $4)" {
		t.Error(got)
	}
	for _, d := range []Dialect{MySQL, SQLite} {
		if got := d.Rebind(query); got != query {
			t.Errorf("%v: %s", d, got)
		}
	}
}

func TestRows(t *testing.T) {
	if got := "VALUES " + Rows(2, 3); got != "VALUES (?, ?, ?), (?, ?, ?)" {
		t.Error(got)
	}
}

func TestInIDs(t *testing.T) {
	ids := []int64{1, -2, 1 << 62}
	condition, args := Postgres.InIDs("id", ids)
	if condition != "id BETWEEN ? AND ? AND id = ANY (?::bigint[])" ||
		!slices.Equal(args, []any{int64(-2), int64(1 << 62), "{1,-2,4611686018427387904}"}) {
		t.Error(condition, args)
	}
	if condition, args := SQLite.InIDs("id", ids); condition != "id IN (1,-2,4611686018427387904)" || args != nil {
		t.Error(condition, args)
	}
}

// statements is an Execer that keeps statements, and says that each has deleted as many rows as it names.
type statements []string

func (s *statements) Exec(_ context.Context, query string, args ...any) (int64, error) {
	*s = append(*s, fmt.Sprint(query, args))
	return int64(strings.Count(query, "SELECT")), nil
}

func TestDeleteIDs(t *testing.T) {
	var s statements
	if _, err := Postgres.DeleteIDs(t.Context(), &s, "a.b", "id", []int64{7, 9}, ""); err != nil ||
		s[0] != "DELETE FROM a.b WHERE id BETWEEN $1 AND $2 AND id = ANY ($3::bigint[])[7 9 {7,9}]" {
		t.Error(s, err)
	}
	s = nil
	ids := make([]int64, DeleteRows+2)
	for i := range ids {
		ids[i] = int64(i)
	}
	n, err := MySQL.DeleteIDs(t.Context(), &s, "a.b", "`offset`", ids, "")
	if err != nil || n != int64(len(ids)) || len(s) != 2 ||
		s[1] != "DELETE o FROM (SELECT 250 AS id UNION ALL SELECT 251) AS x STRAIGHT_JOIN a.b AS o FORCE INDEX (PRIMARY) ON o.`offset` = x.id[]" {
		t.Error(n, err, s)
	}
}

type coded string

func (c coded) Error() string    { return "pg: " + string(c) }
func (c coded) SQLState() string { return string(c) }

func TestExplain(t *testing.T) {
	for _, test := range []struct {
		err, is error
		says    string
	}{
		{coded("42P01"), ErrNoTable, "make it with Create"},
		{coded("42703"), ErrVersion, "bring it up to date with Create"},
		{fmt.Errorf("wrapped: %w", coded("42501")), ErrDenied, "42501"},
		{errors.New("Error 1146 (42S02): Table 'a.b' doesn't exist"), ErrNoTable, "Create"},
		{errors.New("SQL logic error: no such table: x (1)"), ErrNoTable, "Create"},
		{sql.ErrTxDone, ErrTxDone, "before the commit"},
	} {
		err := Explain(test.err, "things", "Create")
		if !errors.Is(err, test.is) || !errors.Is(err, test.err) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%v is explained as %v", test.err, err)
		}
	}
	for _, err := range []error{coded("23505"), errors.New("connection refused"), nil} {
		if got := Explain(err, "things", "Create"); got != err {
			t.Errorf("%v is explained as %v", err, got)
		}
	}
	for _, err := range []error{
		coded("42P01"), coded("42501"), errors.New("Error 1142 (42000)"), errors.New("Error 1044 (42000)"), errors.New("attempt to write a readonly database (8)"),
	} {
		if !IsPermanent(Explain(err, "", "")) {
			t.Errorf("%v is taken to pass", err)
		}
	}
	for _, err := range []error{coded("25006"), errors.New("Error 1290 (HY000)"), errors.New("Error 1792 (25006)"), errors.New("Error 1836 (HY000)")} {
		if err := Explain(err, "", ""); IsPermanent(err) || !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("%v is permanent, or not named", err)
		}
	}
	if IsPermanent(sql.ErrConnDone) {
		t.Error("a connection that is gone is permanent")
	}
}

// MySQL takes names of locks of up to 64 bytes, and schema and table may be longer.
func TestLockName(t *testing.T) {
	long := Schema{Name: strings.Repeat("s", 64) + "." + strings.Repeat("t", maxName)}.lockName()
	short := Schema{Name: "shop.outbox"}.lockName()
	if len(long) != 64+len("''") || short != "'millrace schema shop.outbox'" {
		t.Error(long, short)
	}
}

func TestValidate(t *testing.T) {
	for _, name := range []string{"outbox", "Shop.out_box9", "_x"} {
		if err := ValidateName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", ".", "a.", ".a", "a.b.c", "9a", "a b", "a;", "ä", strings.Repeat("a", maxName+1)} {
		if ValidateName(name) == nil {
			t.Errorf("%q is taken", name)
		}
	}
	if Dialect(0).Validate() == nil || Dialect(9).Validate() == nil || SQLite.Validate() != nil {
		t.Error("which dialects there are")
	}
}
