package sqldb

import (
	"context"
	"database/sql"
)

// Execer is a transaction, or what else a statement can be run on.
type Execer interface {
	// Exec runs a statement and returns how many rows it affected.
	Exec(ctx context.Context, query string, args ...any) (affected int64, err error)
}

// SQL makes an Execer of a *sql.Tx, *sql.Conn or *sql.DB.
func SQL(tx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}) Execer {
	return sqlExecer{tx}
}

type sqlExecer struct {
	tx interface {
		ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	}
}

func (e sqlExecer) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	result, err := e.tx.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// Pgx makes an Execer of a pgx.Tx, *pgx.Conn or *pgxpool.Pool: their Exec returns a pgconn.CommandTag, which is the T
// that the compiler finds. So whoever does not use pgx does not build it.
func Pgx[T interface{ RowsAffected() int64 }](tx interface {
	Exec(ctx context.Context, query string, args ...any) (T, error)
}) Execer {
	return pgxExecer[T]{tx}
}

type pgxExecer[T interface{ RowsAffected() int64 }] struct {
	tx interface {
		Exec(ctx context.Context, query string, args ...any) (T, error)
	}
}

func (e pgxExecer[T]) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	tag, err := e.tx.Exec(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return tag.RowsAffected(), nil
}
